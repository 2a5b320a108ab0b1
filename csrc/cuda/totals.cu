#include "launch_totals.h"

namespace contrastile::cuda {
extern const TotalsLauncher totals = kTotals;
}
