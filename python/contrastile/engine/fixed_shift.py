"""Within what one shift serves all exponents of a log-sum-exp in fp32; in bits."""

# 2^REACH times 2^27 terms is within fp32.
REACH = 100.0
# Beyond, a shift rounded to fp32 would be off by whole bits.
COARSE = 2.0**22
# Powers below 2^-126 may be flushed: M of them are 2^-24 of a sum of M 2^-102.
SMALLEST = 2.0**-102
