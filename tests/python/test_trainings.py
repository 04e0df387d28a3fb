"""gpt.py and bert.py with --quick: what they learn, write and refuse."""
import json
import pathlib
import sys

import pytest
import torch

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "python"
sys.path.insert(0, str(EXAMPLES))

import bert  # noqa: E402
import gpt  # noqa: E402
import training  # noqa: E402
from model import LanguageModel  # noqa: E402

SIZES = {"options", "machine", "text", "models", "loss", "attention", "seconds", "started", "what"}


def run(program, folder, *arguments):
    """The result of a quick run, and where its plot goes."""
    result, plot = folder / "result.json", folder / "plot.svg"
    assert program.main(["--quick", "--json", str(result), "--plot", str(plot), *arguments]) == 0
    return json.loads(result.read_text()), plot


@pytest.fixture(scope="module", params=[gpt, bert], ids=["gpt", "bert"])
def quick(request, tmp_path_factory):
    return (request.param.__name__, *run(request.param, tmp_path_factory.mktemp("trainings")))


def test_both_models_learn(quick):
    _, result, _ = quick
    assert set(result["models"]) == {"cosine", "softmax"}
    for model in result["models"].values():
        steps, losses = zip(*model["validation"])
        assert steps[0] == 0 and steps[-1] == result["options"]["steps"]
        assert losses[-1] < losses[0] - 0.5
        assert model["tokens"] > 0 and model["tokens_per_second"] > 0
    # The same characters for both: seeds, batches and masks agree.
    cosine, softmax = result["models"].values()
    assert cosine["tokens"] == softmax["tokens"]
    options = result["options"]
    assert cosine["parameters"] == softmax["parameters"] + options["layers"] * (options["heads"] + 2 * options["dim"])
    assert result["loss"]["ratio"] == pytest.approx(cosine["test"] / softmax["test"], rel=1e-5)


def test_result_file(quick):
    name, result, plot = quick
    assert result["what"] == name and SIZES <= set(result)
    assert result["machine"]["torch"] == torch.__version__
    assert str(EXAMPLES.parents[1]) not in json.dumps(result)
    forms = {row["form"] for row in result["attention"]}
    assert forms == {"cosine", "softmax", "softmax, scores stored"}
    assert all(row["tokens_per_second"] > 0 for row in result["attention"])
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert not plot.exists()
    else:
        assert "<svg" in plot.read_text()


def test_generation_in_constant_memory(quick):
    name, result, _ = quick
    if name == "gpt":
        generation = result["generation"]
        assert generation["agreement"]["holds"] and generation["agreement"]["relative_rms"] <= gpt.AGREEMENT
        assert generation["state_bytes"][0] == generation["state_bytes"][1] > 0
        assert len(generation["sample"]) == generation["characters"]
    else:
        assert "generation" not in result


def test_agreement_finds_a_difference():
    torch.manual_seed(0)
    model = LanguageModel("cosine", 20, dim=16, heads=2, layers=1, causal=True)
    tokens = torch.randint(0, 20, (1, 40))
    assert gpt.agreement(model, tokens)[0] <= gpt.AGREEMENT
    forward = model.forward
    model.forward = lambda tokens: forward(torch.cat([tokens[:, 1:], tokens[:, :1]], dim=1))  # a model that sees what comes
    assert gpt.agreement(model, tokens)[0] > 1e-2


@pytest.mark.parametrize("kind", ["cosine", "softmax"])
def test_padding_changes_nothing(kind):
    torch.manual_seed(0)
    model = LanguageModel(kind, 20, dim=16, heads=2, layers=2, causal=False)
    tokens = torch.randint(0, 20, (1, 30))
    padded = torch.cat([tokens, torch.randint(0, 20, (1, 9))], dim=1)
    mask = torch.arange(39).unsqueeze(0) < 30
    with torch.no_grad():
        alone, beside = model(tokens), model(padded, mask)[:, :30]
    assert (alone - beside).norm() <= 1e-5 * alone.norm()


def test_pieces_are_the_text():
    text = 'One. "Two!" three four\n\n' + "word " * 40 + "end. And then."
    pieces = bert.pieces_of(text, 50)
    assert max(map(len, pieces)) <= 50
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_masked_batch_hides_what_is_asked():
    vocabulary = training.Vocabulary("abc", further=("hidden", "padding"))
    pieces = [vocabulary.encode("abc" * n) for n in (100, 300)]
    inputs, targets, mask = bert.masked_batch(pieces, vocabulary, torch.Generator().manual_seed(0))
    assert mask.sum(dim=1).tolist() == [300, 900]
    asked = targets != -100
    assert not asked[~mask].any() and 0.1 < asked[mask].float().mean() < 0.2
    hidden = inputs == vocabulary.further["hidden"]
    assert not hidden[~asked].any() and 0.7 < hidden[asked].float().mean() < 0.9
    row = torch.cat([pieces[0], torch.full((600,), vocabulary.further["padding"])])
    assert torch.equal(inputs[0][~asked[0]], row[~asked[0]]) and torch.equal(targets[0][asked[0]], row[asked[0]])


@pytest.mark.parametrize("arguments, words", [
    (["--steps", "0"], "argument --steps: 0: must be at least 1"),
    (["--length", "many"], "argument --length: many: must be a whole number"),
    (["--dim", "100", "--heads", "3"], "--dim 100: must be a multiple of --heads, 3"),
    (["--lr", "2"], "--lr 2.0: must lie between 0 and 1"),
    (["--device", "tpu"], "--device tpu: must be cpu or cuda"),
    (["--length", "1000000"], "--length 1000000: the text has 464,349 characters, too few for it"),
    (["--text", "nowhere.txt"], "--text nowhere.txt: "),
])
@pytest.mark.parametrize("program", [gpt, bert], ids=["gpt", "bert"])
def test_bad_options(program, arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        program.main([*arguments, "--json", str(tmp_path / "result.json")])
    assert left.value.code == 2
    assert f"{program.__name__}.py: error: {words}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device(capsys):
    with pytest.raises(SystemExit):
        gpt.main(["--device", "cuda"])
    assert "--device cuda: PyTorch finds no CUDA device here" in capsys.readouterr().err
