"""Updates: bundles fetched, installed by RAUC, and judged by the health of the board afterwards."""
