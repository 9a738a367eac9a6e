"""Network inputs of a batch of structures as one tensor, for use outside this package."""

from pathlib import Path

import numpy as np
import torch

import pyfit_gpu as pf

data = Path(__file__).parent / "data"
device = "cuda" if torch.cuda.is_available() else "cpu"
structures = pf.load_structures(data / "si_dft.extxyz", device=device)
potential = pf.load_potential(data / "si.start.nn.dat", device=device)

features = pf.featurize(structures, potential)  # (n_atoms, n_features), atoms in file order
print(
    f"{len(structures)} structures, {structures.n_atoms} atoms: features {tuple(features.shape)} on {features.device}"
)

# The same for a descriptor of your own, without any potential file.
descriptor = pf.LocalStructureParameters(
    elements=("Si",),
    gi_mode=5,
    shift=0.0,
    cutoff=5.0,
    cutoff_width=1.0,
    gaussian_width=1.0,
    legendre_orders=(0, 1, 2, 3, 4),
    gaussian_centers=(2.0, 3.0, 4.0),
)
neighbors = pf.find_neighbors(structures, descriptor.neighbor_cutoff)
species = torch.zeros(structures.n_atoms, dtype=torch.int64, device=device)
own = descriptor(neighbors, species)
print(f"own descriptor: {tuple(own.shape)}, {len(neighbors.index)} pairs")
np.save("features.npy", own.cpu().numpy())
