"""The CTR model: shared embeddings, and heads whose logits add up."""
