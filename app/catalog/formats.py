"""The formats: what a model can be uploaded as, and what it can become. The work is done in `workers/formats`."""

from app.catalog.spec import FormatSpec

_EXPORT = "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')"

_SPECS = (
    FormatSpec(
        name="onnx",
        version=2,
        title="ONNX",
        files="`.onnx`, or a `.zip` or `.tar` of it with its external weights",
        documentation="The form in which passes work. Opsets up to the newest that the installed onnx package knows; "
        "external weights may pass 2 GB. Source: https://onnx.ai/onnx/repo-docs/IR.html.",
        converts_to=frozenset({"torch-export"}),
        packages=("onnx",),
    ),
    FormatSpec(
        name="torch-export",
        version=1,
        title="PyTorch exported program",
        files="`.pt2`",
        documentation=f"What `{_EXPORT}` writes: a graph with its weights, its free dimensions, and no Python code. The "
        "form for PyTorch's own runtimes. Source: https://docs.pytorch.org/docs/stable/export.html.",
        converts_to=frozenset({"onnx"}),
        reference=True,
        packages=("torch", "onnxscript"),
    ),
    FormatSpec(
        name="torchscript",
        version=1,
        title="TorchScript",
        files="`.pt`, `.pth` or `.jit` of `torch.jit.save`",
        documentation="A scripted or traced module. It does not tell its inputs: the uploader does, with `signature`. Control "
        "flow is kept, as `If` and `Loop`. Source: https://docs.pytorch.org/docs/stable/jit.html.",
        converts_to=frozenset({"onnx"}),
        declares=frozenset({"signature"}),
        reference=True,
        packages=("torch", "onnx"),
    ),
    FormatSpec(
        name="keras",
        version=1,
        title="Keras",
        files="`.keras`, or `.h5` of older versions",
        documentation="Opened by Keras 3 on PyTorch with `safe_mode=True`: layers that hold code (Lambda, custom classes) are "
        "refused by name. Layouts stay as they are (channels last). The batch and other free dimensions stay free; the length of a "
        "sequence must be declared (`signature`) where masks or other layers than LSTM and GRU unroll it. "
        "Source: https://keras.io/guides/serialization_and_saving/.",
        converts_to=frozenset({"onnx", "torch-export"}),
        reference=True,
        packages=("keras", "torch", "onnxscript"),
    ),
    FormatSpec(
        name="transformers",
        version=1,
        title="Hugging Face Transformers",
        files="a `.zip` or `.tar` of what `save_pretrained` writes: `config.json` and `.safetensors`",
        documentation="A model with its task's head, of the classes that the transformers package has: no remote code. Batch and "
        "sequence are free. The tokenizer's files go into the bundle. Source: https://huggingface.co/docs/transformers.",
        converts_to=frozenset({"onnx", "torch-export"}),
        reference=True,
        packages=("transformers", "torch", "onnxscript"),
    ),
    FormatSpec(
        name="state-dict",
        version=1,
        title="Weights of a known architecture",
        files="`.safetensors`, or `.pt` and `.pth` that `torch.load(weights_only=True)` takes",
        documentation="Weights alone, with `architecture`: a name of the pytorchcv package and its arguments, as in "
        "`resnet18` or `mobilenetv2_w1(num_classes=10)`. Keys and shapes that do not fit are listed. Source: "
        "https://github.com/osmr/pytorchcv.",
        converts_to=frozenset({"onnx", "torch-export"}),
        declares=frozenset({"architecture", "signature"}),
        reference=True,
        packages=("torch", "pytorchcv", "onnxscript"),
    ),
    FormatSpec(
        name="tensorflow",
        version=1,
        title="TensorFlow SavedModel",
        files="a `.zip` or `.tar` of the folder with `saved_model.pb`",
        documentation="Its serving signature, converted by tf2onnx, from the `tensorflow` extra, which only workers need that take "
        "this format. Graphs that call Python or touch files are refused. Source: https://github.com/onnx/tensorflow-onnx.",
        converts_to=frozenset({"onnx"}),
        reference=True,
        packages=("tensorflow", "tf2onnx"),
    ),
)

FORMATS: dict[str, FormatSpec] = {spec.name: spec for spec in _SPECS}


def way(held: str, taken: frozenset[str]) -> str | None:
    """What a model of the format `held` must become for somebody who takes `taken`; None where it may stay.

    Raises:
        LookupError: there is no way.
    """
    if held in taken:
        return None
    spec = FORMATS.get(held)
    reachable = sorted(taken & spec.converts_to) if spec else []
    if not reachable:
        raise LookupError(held)
    return reachable[0]
