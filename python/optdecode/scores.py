"""Plain edits of logits for loops without an engine: penalties, biases, bad words, minimum length."""
