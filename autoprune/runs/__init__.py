"""One run: its directory, its problem as prepared, what workers are sent, its winner's way out, what comes after."""

from autoprune.runs.afterwards import changed_run as changed_run
from autoprune.runs.afterwards import export_run as export_run
from autoprune.runs.afterwards import finetune as finetune
from autoprune.runs.afterwards import reopen as reopen
from autoprune.runs.directory import RunDirectory as RunDirectory
from autoprune.runs.directory import example_tensors as example_tensors
from autoprune.runs.directory import refuse_existing as refuse_existing
from autoprune.runs.directory import run_path as run_path
from autoprune.runs.prepare import Prepared as Prepared
from autoprune.runs.prepare import prepare as prepare
from autoprune.runs.recipe import Recipe as Recipe
from autoprune.runs.result import SearchResult as SearchResult
from autoprune.runs.winner import Winner as Winner
from autoprune.runs.winner import deliver as deliver
