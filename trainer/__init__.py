"""Trains an adapter and its words on a base model, and proves that they were learned."""
