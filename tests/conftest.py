import gc
import os
from pathlib import Path

import pytest
from random_models import KINDS, VOCABULARY, tiny_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_finish():
    """Spare what the imports made from garbage collection: each run here ends with one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread_again():
    """A run in this process may set another number, which would slow all tests after it."""
    import torch

    yield
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def hastened():
    """Runs in this process warm up and time passes for a moment only: no test is about speed."""
    from cllm_bench.measurement import executor, runner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "WARM_UP_RUNS", 1)
        patch.setattr(executor, "WARM_UP_MEDIANS", 1)
        patch.setattr(runner, "TURNS", 1)
        yield


@pytest.fixture(scope="session", params=KINDS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def llama():
    return tiny_model("llama")


@pytest.fixture(scope="session")
def prompts():
    """Token ids, of length 1 to 40."""
    import torch

    generator = torch.Generator().manual_seed(7)
    lengths = [1, 2, 3, *range(5, 40, 2)]
    return [torch.randint(0, VOCABULARY, (length,), generator=generator) for length in lengths]


@pytest.fixture(scope="session")
def greedy(model, prompts):
    """The library's own greedy replies, of 29 tokens; a shorter reply is the beginning of one."""
    from greedy_decoding import expected_tokens

    return [expected_tokens(model, prompt, 29) for prompt in prompts]


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets, where it is at hand."""
    path = Path(
        os.environ.get("CLLM_BENCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    )
    if not path.is_dir():
        pytest.skip("no real data sets here: set CLLM_BENCH_DATA to their folder")
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A family of two checkpoints, and a plugin with a task, on disk."""
    from families import write_family, write_task

    folder = tmp_path_factory.mktemp("tiny")
    return write_family(folder), write_task(folder)


@pytest.fixture(scope="session")
def telling(tmp_path_factory):
    """A plugin with a task whose text is scored."""
    from telling import TASK

    file = tmp_path_factory.mktemp("telling") / "telling.py"
    file.write_text(TASK, encoding="utf-8")
    return file


@pytest.fixture
def command(tiny):
    """The beginning of a run of the tiny task on the tiny family."""
    family, plugin = tiny
    tiny_run = ["--model", family, "--plugin", plugin, "--task", "counting", "--threads", 1]
    return ["run", *tiny_run, "--no-noise-floor"]


@pytest.fixture
def fewer_draws(monkeypatch):
    """Contract checks that draw seldom."""
    from cllm_bench.testing.sampling import DRAWS

    monkeypatch.setitem(DRAWS, "exact", 100)
    monkeypatch.setitem(DRAWS, "distribution", 250)


@pytest.fixture
def few_models(monkeypatch):
    """Contract checks on two models and three prompts."""
    import cllm_bench.testing.checks  # noqa: F401 - it picks models of its own when it is imported
    from cllm_bench.testing.subject import Subject
    from cllm_bench.testing.tiny_models import VARIED

    for name in ("Qwen2", "GPT-2", "GPT-NeoX"):
        monkeypatch.delitem(VARIED, name)
    every = Subject.prompts
    monkeypatch.setattr(Subject, "prompts", lambda *arguments: every(*arguments)[1::2])
