#define CONTRASTILE_LEVEL avx512
#include "level.h"
