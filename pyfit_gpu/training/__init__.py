"""Fitting potentials to training sets: objective, loop, history, memory plan, several processes."""
