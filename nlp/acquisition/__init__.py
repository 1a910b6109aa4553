# SPDX-License-Identifier: Apache-2.0
"""Which tasks to ask of which text: model-based data acquisition and active learning.

with Project("project.sqlite") as project:         # see nlp.acquire for the program
    plan_round(project, Tool(), texts=50)
    questions = project.open_questions()
"""

from nlp.acquisition.deployment import (
    COMMENTS,
    PARAGRAPHS,
    Cleaning,
    Package,
    article_package,
    article_vector,
    balanced_draw,
    choose_clusters,
    clean,
    cluster_vectors,
    packages,
    water_fill,
    with_conditions,
)
from nlp.acquisition.evaluation import make_folds, out_of_fold, two_rounds
from nlp.acquisition.heads import Heads
from nlp.acquisition.metrics import Saving, curve, keep_highest, policies, saving
from nlp.acquisition.project import Tool, plan_round, status
from nlp.acquisition.selectors import SELECTORS, Candidates
from nlp.acquisition.simulation import Simulation, simulate
from nlp.acquisition.store import Project

__all__ = [
    "COMMENTS",
    "PARAGRAPHS",
    "SELECTORS",
    "Candidates",
    "Cleaning",
    "Heads",
    "Package",
    "Project",
    "Saving",
    "Simulation",
    "Tool",
    "article_package",
    "article_vector",
    "balanced_draw",
    "choose_clusters",
    "clean",
    "cluster_vectors",
    "curve",
    "keep_highest",
    "make_folds",
    "out_of_fold",
    "packages",
    "plan_round",
    "policies",
    "saving",
    "simulate",
    "status",
    "two_rounds",
    "water_fill",
    "with_conditions",
]
