// What LAMMPS calls when it loads the plugin.
// SPDX-License-Identifier: GPL-2.0-only

#include <cstring>

#include "error.h"
#include "lammps.h"
#include "pair_pyfit.h"

#ifndef PYFIT_LAMMPS_VERSION
#error "define PYFIT_LAMMPS_VERSION as the version of LAMMPS that the headers belong to, such as \"22 Jul 2025\""
#endif

using namespace LAMMPS_NS;

namespace {

// LAMMPS' own declaration is in a header that installations lack.
struct PluginDescription {
  const char *version, *style, *name, *info, *author;
  union {
    void *(*without_words)(void *);
    void *(*with_words)(void *, int, char **);
  } creator;
  void *handle;
};
using Register = void (*)(PluginDescription *, void *);

void *create(void *lmp) { return new PairPyfit(static_cast<LAMMPS *>(lmp)); }

// Classes of another LAMMPS may have another layout. LAMMPS loads plugins by itself, for runs without them too, so
// their use is refused.
void *refuse(void *pointer) {
  auto *const lmp = static_cast<LAMMPS *>(pointer);
  lmp->error->all(FLERR, "pair_style pyfit: the plugin was built for LAMMPS {}, and this is LAMMPS {}: build it anew "
                  "for this one, with pyfit-gpu lammps build", PYFIT_LAMMPS_VERSION, lmp->version);
}

}  // namespace

extern "C" void lammpsplugin_init(void *lmp, void *handle, void *register_function) {
  const bool same = std::strcmp(static_cast<LAMMPS *>(lmp)->version, PYFIT_LAMMPS_VERSION) == 0;
  PluginDescription plugin{};
  plugin.version = PYFIT_LAMMPS_VERSION;
  plugin.style = "pair";
  plugin.name = "pyfit";
  plugin.info = "pair style pyfit: neural-network potentials of pyfit-gpu";
  plugin.author = "the authors of pyfit-gpu";
  plugin.creator.without_words = same ? create : refuse;
  plugin.handle = handle;
  reinterpret_cast<Register>(register_function)(&plugin, lmp);
}
