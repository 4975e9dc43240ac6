"""`cdvqa ask`: one question to one network, or to two side by side."""

from pathlib import Path
from typing import Optional

from jsonargparse.typing import PositiveInt

from cdvqa.cli.parsing import call
from cdvqa.deploy.network import Answer, Network, Reply, load
from cdvqa.errors import InputError
from cdvqa.inference.runtimes import RuntimeName, RuntimeType


def run(args: list[str]) -> None:
    """Run `cdvqa ask` with command-line arguments."""
    network = {"help": "A finished run's folder or network file, or a folder that cdvqa push wrote."}
    print(call(ask, args, {"network": network}))


def ask(
    network: str,
    question: str,
    image: Optional[Path] = None,
    image_id: Optional[int] = None,
    features: Optional[Path] = None,
    beside: Optional[str] = None,
    top: PositiveInt = 5,
    runtime: RuntimeName = "torch",
    dtype: RuntimeType = "fp32",
) -> str:
    """Answer a question about an image.

    Args:
        network: a finished run's folder, a network file, or a folder that `cdvqa push` wrote.
        question: its text.
        image: a picture, for a backbone that sees pixels.
        image_id: an image of the run's data, or of `features`.
        features: HDF5 file of region features; that of the run where null.
        beside: another network to ask the same.
        top: how many answers to show.
        runtime: torch, or auto: the fastest here that answers as torch does.
        dtype: fp32, or with `--runtime auto` int8, whose answers may differ.

    Returns:
        Answers with their shares, the question type and its prior, and the latency.

    Raises:
        InputError: options that contradict each other, or as `load` and `Network.ask`.
    """
    if (image is None) == (image_id is None):
        raise InputError("give one of --image FILE and --image_id N")
    if dtype == "int8" and runtime != "auto":
        raise InputError("--dtype int8 needs --runtime auto")
    texts, best = [], []
    for source in filter(None, (network, beside)):
        loaded = load(source)
        if features is not None:
            loaded.data.features_file = features
        chosen = loaded.take_runtime(dtype, 1) if runtime == "auto" else ""
        loaded.ask(question, image, image_id=image_id)  # reads files and compiles, which is not timed
        reply = loaded.ask(question, image, image_id=image_id, top=top)
        texts.append(described(loaded, reply, chosen))
        best.append(reply.answers[0].text)
    if beside is not None:
        texts.append("They give the same answer." if best[0] == best[1] else f"They differ: {best[0]}, {best[1]}.")
    return "\n\n".join(texts)


def described(network: Network, reply: Reply, runtime: str) -> str:
    """A reply in a few lines; `runtime` says which runtime was chosen, and is empty where none was."""
    lines = [network.name, f"  answer: {listed(reply.answers)}"]
    if reply.question_type:
        lines.append(f"  prior of {reply.question_type!r}: {listed(reply.prior)}")
        if reply.prior and reply.prior[0].text == reply.answers[0].text:
            lines.append("  the answer is the most frequent one of its type")
    return "\n".join([*lines, f"  {reply.milliseconds:.1f} ms", *([f"  runtime: {runtime}"] if runtime else [])])


def listed(answers: list[Answer]) -> str:
    """`yes 98.1 %, no 1.7 %`."""
    return ", ".join(text if share is None else f"{text} {share:.1%}" for text, share in answers)
