"""Rules of advice, one module per question: facts in, Advice out."""
