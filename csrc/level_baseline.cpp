#define CONTRASTILE_LEVEL baseline
#include "level.h"
