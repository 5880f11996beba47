"""Config, training, evaluation, checkpoints and logs: what ties models, distillers and data together."""
