import subprocess
import sys
from pathlib import Path

import pytest

import saferedir_core

ROOT = Path(saferedir_core.__file__).resolve().parents[1]

PUBLIC = [
    "CheckpointError", "Concept", "ConfigError", "ContextError", "Decision", "EvaluationError", "LatentError",
    "PairsError", "PolicyConfig", "RedirectionRun", "Redirector", "RedirectorConfig", "RedirectorOutput",
    "SafeRedirError", "TimestepError", "TokenScores", "TrainingError", "Trajectory", "fit_words", "load_redirector",
    "save_redirector",
]


def test_the_public_names_are_exactly_these():
    assert sorted(saferedir_core.__all__) == PUBLIC
    assert all(hasattr(saferedir_core, name) for name in PUBLIC)


@pytest.mark.parametrize("modules", ["saferedir_core", "saferedir_core.report"])
def test_importing_brings_in_neither_host_nor_network_nor_plotting(modules):
    code = (f"import sys, {modules}; "
            "print(sorted({name.split('.')[0] for name in sys.modules} "
            "& {'comfy', 'comfy_api', 'folder_paths', 'nodes', 'transformers', 'huggingface_hub', 'matplotlib', "
            "'PIL', 'pydantic', 'scipy'}))")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_name_that_is_not_public_cannot_be_imported():
    with pytest.raises(ImportError, match="cannot import name .redirector_of."):
        from saferedir_core import redirector_of  # noqa: F401


def test_pairs_are_built_without_pytorch():
    code = "import sys, saferedir_core.pair_builder; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_every_module_has_a_test_module():
    modules = {path.stem for path in Path(saferedir_core.__file__).parent.glob("*.py")} - {"__init__"}
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert modules <= tests
