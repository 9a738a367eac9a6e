"""Outputs of electronic-structure programs, made up in their style: two atoms of silicon."""

from __future__ import annotations

ESPRESSO_HEAD = """
     Program PWSCF v.7.2 starts on  1Jan2026 at  1: 0: 0

     number of atoms/cell      =            2
     number of atomic types    =            1
     celldm(1)=   10.000000  celldm(2)=   0.000000  celldm(3)=   0.000000
     crystal axes: (cart. coord. in units of alat)
               a(1) = (   1.000000   0.000000   0.000000 )
               a(2) = (   0.000000   1.000000   0.000000 )
               a(3) = (   0.000000   0.000000   1.000000 )
     site n.     atom                  positions (alat units)
         1           Si  tau(   1) = (   0.0000000   0.0000000   0.0000000  )
         2           Si  tau(   2) = (   0.5000000   0.2500000   0.2500000  )
     number of k points=     1
                       cart. coord. in units 2pi/alat
        k(    1) = (   0.0000000   0.0000000   0.0000000), wk =   2.0000000
"""
ESPRESSO_STEP = """
     End of self-consistent calculation

          k = 0.0000 0.0000 0.0000 (   100 PWs)   bands (ev):

    -5.0000   6.0000

     highest occupied level (ev):     6.0000

!    total energy              =     -15.00000000 Ry
     convergence has been achieved in   9 iterations

     Forces acting on atoms (cartesian axes, Ry/au):

     atom    1 type  1   force =     0.01000000    0.00000000    0.00000000
     atom    2 type  1   force =    -0.01000000    0.00000000    0.00000000

     Total force =     0.010000     Total SCF correction =     0.000000

          total   stress  (Ry/bohr**3)                   (kbar)     P=       14.71
   0.00010000   0.00001000   0.00002000           14.71        1.47        2.94
   0.00001000   0.00020000   0.00003000            1.47       29.42        4.41
   0.00002000   0.00003000   0.00030000            2.94        4.41       44.13
"""
ESPRESSO_MOVE = """
ATOMIC_POSITIONS (angstrom)
Si               0.1000000000        0.0000000000        0.0000000000
Si               2.6458860500        1.3229430250        1.3229430250
"""
ESPRESSO_END = "\n   JOB DONE.\n"
ESPRESSO = ESPRESSO_HEAD + ESPRESSO_STEP + ESPRESSO_END

AIMS_HEAD = """
          Invoking FHI-aims ...
  | Number of atoms                   :        2
  | Number of spin channels           :        1
  | Number of Kohn-Sham states (occupied + empty):       20
  The structure contains        2 atoms,  and a total of         28.000 electrons.
  Input geometry:
  | Unit cell:
  |        5.00000000        0.00000000        0.00000000
  |        0.00000000        5.00000000        0.00000000
  |        0.00000000        0.00000000        5.00000000
  | Atomic structure:
  |       Atom                x [A]            y [A]            z [A]
  |    1: Species Si            0.00000000        0.00000000        0.00000000
  |    2: Species Si            2.35000000        0.00000000        0.00000000
          Begin self-consistency loop: Initialization.
          Begin self-consistency iteration #    1
"""
AIMS_SCF = """
  | Electronic free energy        :        -578.00000 Ha      -15728.18100000 eV
  Self-consistency cycle converged.
  Energy and forces in a compact form:
  | Total energy uncorrected      :         -0.157281800000000E+05 eV
  | Total energy corrected        :         -0.157281805000000E+05 eV
  | Electronic free energy        :         -0.157281810000000E+05 eV
  Total atomic forces (unitary forces cleaned) [eV/Ang]:
  |    1          0.250000000000000E+00          0.000000000000000E+00          0.000000000000000E+00
  |    2         -0.250000000000000E+00          0.000000000000000E+00          0.000000000000000E+00
"""
AIMS_END = "\n          Have a nice day.\n"
AIMS = AIMS_HEAD + AIMS_SCF + AIMS_END

GPAW_HEAD = """
  ___ ___ ___ _ _ _
 |   |   |_  | | | |
 | | | | | . | | | |
 |__ |  _|___|_____|  24.1.0
 |___|_|

Reference energy: -15772.100000
"""
GPAW_STEP = """
Positions:
   0 Si     0.000000    0.000000    0.000000    ( 0.0000,  0.0000,  0.0000)
   1 Si     2.350000    0.000000    0.000000    ( 0.0000,  0.0000,  0.0000)

Unit cell:
           periodic     x           y           z      points  spacing
  1. axis:    yes    5.000000    0.000000    0.000000    24     0.2083
  2. axis:    yes    0.000000    5.000000    0.000000    24     0.2083
  3. axis:    yes    0.000000    0.000000    5.000000    24     0.2083

Converged after 12 iterations.

Energy contributions relative to reference atoms: (reference = -15772.100000)

Kinetic:         +7.000000
--------------------------
Free energy:     -9.250000
Extrapolated:    -9.125000

Forces in eV/Ang:
  0 Si    0.25000    0.00000   -0.00000
  1 Si   -0.25000    0.00000   -0.00000
"""
GPAW = GPAW_HEAD + GPAW_STEP

CASTEP = """
 +-------------------------------------------------+
 |      Welcome to Academic Release CASTEP version 22.11 |
 +-------------------------------------------------+
 ************************************ Title ************************************
 ***************************** General Parameters ******************************
 output         length unit                     : A
 output         energy unit                     : eV
 output          force unit                     : eV/A
 output       pressure unit                     : GPa
 *******************************************************************************

                           -------------------------------
                                      Unit Cell
                           -------------------------------
        Real Lattice(A)              Reciprocal Lattice(1/A)
     5.0000000     0.0000000     0.0000000        1.256637061   0.000000000   0.000000000
     0.0000000     5.0000000     0.0000000        0.000000000   1.256637061   0.000000000
     0.0000000     0.0000000     5.0000000        0.000000000   0.000000000   1.256637061

                           -------------------------------
                                     Cell Contents
                           -------------------------------
                         Total number of ions in cell =    2
                      Total number of species in cell =    1

            xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
            x  Element         Atom        Fractional coordinates of atoms  x
            x                 Number           u          v          w      x
            x----------------------------------------------------------x
            x  Si                1         0.000000   0.000000   0.000000   x
            x  Si                2         0.250000   0.250000   0.250000   x
            xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx

Final energy, E             =  -340.5000000000     eV
Final free energy (E-TS)    =  -340.7500000000     eV
(energies not corrected for finite basis set)
NB est. 0K energy (E-0.5TS)      =  -340.6250000000     eV

 ***************** Symmetrised Forces *****************
 *                                                    *
 *            Cartesian components (eV/A)             *
 * -------------------------------------------------- *
 *                   x            y            z      *
 *                                                    *
 * Si         1      0.25000      0.00000      0.00000 *
 * Si         2     -0.25000      0.00000      0.00000 *
 *                                                    *
 ******************************************************

 *********** Symmetrised Stress Tensor ***********
 *                                               *
 *          Cartesian components (GPa)           *
 * --------------------------------------------- *
 *             x             y             z     *
 *                                               *
 *  x      1.000000      0.100000      0.200000  *
 *  y      0.100000      2.000000      0.300000  *
 *  z      0.200000      0.300000      3.000000  *
 *                                               *
 *  Pressure:   -2.0000                          *
 *                                               *
 *************************************************

Initialisation time =      0.50 s
Calculation time    =      1.50 s
Finalisation time   =      0.10 s
Total time          =      2.10 s
"""

CASTEP_MD = """ BEGIN header

 END header

                        0.0000000000000000E+000
                       -1.2500000000000000E+001   -1.2500000000000000E+001  <-- E
                        1.0000000000000000E+001    0.0000000000000000E+000    0.0000000000000000E+000  <-- h
                        0.0000000000000000E+000    1.0000000000000000E+001    0.0000000000000000E+000  <-- h
                        0.0000000000000000E+000    0.0000000000000000E+000    1.0000000000000000E+001  <-- h
 Si              1      0.0000000000000000E+000    0.0000000000000000E+000    0.0000000000000000E+000  <-- R
 Si              2      5.0000000000000000E+000    2.5000000000000000E+000    2.5000000000000000E+000  <-- R
 Si              1      1.0000000000000000E-002    0.0000000000000000E+000    0.0000000000000000E+000  <-- F
 Si              2     -1.0000000000000000E-002    0.0000000000000000E+000    0.0000000000000000E+000  <-- F

"""

GAUSSIAN_GEOMETRY = """
                          {orientation} orientation:
 ---------------------------------------------------------------------
 Center     Atomic      Atomic             Coordinates (Angstroms)
 Number     Number       Type             X           Y           Z
 ---------------------------------------------------------------------
      1         14           0        0.000000    0.000000    0.000000
      2         14           0        2.350000    0.000000    0.000000
 ---------------------------------------------------------------------
"""
GAUSSIAN_RESULTS = """
 SCF Done:  E(RPBE-PBE) =  -578.500000000     A.U. after   12 cycles
 -------------------------------------------------------------------
 Center     Atomic                   Forces (Hartrees/Bohr)
 Number     Number              X              Y              Z
 -------------------------------------------------------------------
      1       14           0.010000000    0.000000000    0.000000000
      2       14          -0.010000000    0.000000000    0.000000000
 -------------------------------------------------------------------
"""
GAUSSIAN_HEAD = " Entering Gaussian System, Link 0=g16\n"
GAUSSIAN_END = " Normal termination of Gaussian 16 at Thu Jan  1 01:00:00 2026.\n"
GAUSSIAN = GAUSSIAN_HEAD + GAUSSIAN_GEOMETRY.format(orientation="Input") + GAUSSIAN_RESULTS + GAUSSIAN_END

ORCA = """
                                 *****************
                                 * O   R   C   A *
                                 *****************
---------------------------------
CARTESIAN COORDINATES (ANGSTROEM)
---------------------------------
  Si     0.000000    0.000000    0.000000
  Si     2.350000    0.000000    0.000000

 Number of atoms                             ...      2

-------------------------   --------------------
FINAL SINGLE POINT ENERGY      -578.500000000000
-------------------------   --------------------
------------------
CARTESIAN GRADIENT
------------------

   1   Si :   -0.010000000    0.000000000    0.000000000
   2   Si :    0.010000000    0.000000000    0.000000000

                             ****ORCA TERMINATED NORMALLY****
"""

NWCHEM = """
              Northwest Computational Chemistry Package (NWChem) 7.2.0

                             Geometry "geometry" -> ""
                             -------------------------

 Output coordinates in angstroms (scale by  1.889725989 to convert to a.u.)

  No.       Tag          Charge          X              Y              Z
 ---- ---------------- ---------- -------------- -------------- --------------
    1 Si                  14.0000     0.00000000     0.00000000     0.00000000
    2 Si                  14.0000     2.35000000     0.00000000     0.00000000

                                 NWChem DFT Module
                                 -----------------

         Total DFT energy =     -578.500000000000

                         DFT ENERGY GRADIENTS

    atom               coordinates                        gradient
                 x          y          z           x          y          z
   1 Si      0.000000   0.000000   0.000000   -0.010000   0.000000   0.000000
   2 Si      4.440856   0.000000   0.000000    0.010000   0.000000   0.000000

 Total times  cpu:        1.0s     wall:        1.0s
"""
