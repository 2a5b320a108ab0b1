"""What only a GPU can show, by sections: see ``benches/gpu_check.py``; not part of the wheel."""
