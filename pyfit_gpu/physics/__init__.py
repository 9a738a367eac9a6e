"""Physical properties of crystals by a potential: equations of state, elasticity, defects, phonons, dynamics."""
