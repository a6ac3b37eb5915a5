"""Models from batches: packs, trials, learners, losses, optimizers and soups."""
