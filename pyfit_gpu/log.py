"""The one logger of the package: progress as info, doubts as warnings. The command line shows both."""

from __future__ import annotations

import logging

log = logging.getLogger("pyfit_gpu")
