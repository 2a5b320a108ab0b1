#define CONTRASTILE_LEVEL avx2
#include "level.h"
