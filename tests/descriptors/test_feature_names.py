"""Names of inputs, against which inputs a structure really has."""

from __future__ import annotations

from sample_sets import make_descriptor

from pyfit_gpu.descriptors.feature_names import feature_names


def test_names() -> None:
    descriptor = make_descriptor(("Si", "C"), gi_mode=6, cross_terms=1, triples=((0, 2, 2),))
    names = feature_names(descriptor)
    assert len(names) == len(set(names)) == descriptor.n_features
    assert names[0] == "Si-Si l=0 r0=1.7 Å"
    assert names[3:5] == ["Si-Si l=0 r0=1.7,2.5 Å", "Si-Si l=0 r0=2.5,3.3 Å"]
    assert names[5] == "Si-Si l=2 r0=1.7 Å"
    assert names[10] == "Si-C l=0 r0=1.7 Å"
    assert names[30] == "Si-Si-Si l=0,2,2 r0=1.7 Å"
    assert names[-1] == "C-C-C l=0,2,2 r0=3.3 Å"
