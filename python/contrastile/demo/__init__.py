"""``contrastile demo``: one model, one seed, two losses, compared."""
