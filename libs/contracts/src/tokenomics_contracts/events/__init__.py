"""Event models, one module per topic. Past tense, frozen, versioned in the type name."""
