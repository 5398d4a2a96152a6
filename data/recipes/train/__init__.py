"""One trainer a model: data and model, loss, and what is saved."""
