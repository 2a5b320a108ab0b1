"""The losses under the names and signatures of the libraries that people train with.

Each module imports its library, and nothing imports the modules: ``contrastile.integrations.
open_clip``, ``contrastile.integrations.sentence_transformers``. docs/integrations.md tells what is
the same and what differs.
"""
