"""Model: an opened GGUF file, with its tokenizer and what the core found out about it."""

import copy
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ._capi import (
    NULL,
    Handle,
    Owner,
    c_path,
    c_string,
    check,
    ffi,
    fill,
    float_array,
    lib,
    progress_callback,
    shown,
    text,
    token_array,
)
from .errors import ArgumentError

if TYPE_CHECKING:
    from .chat_template import ChatTemplate

# mp_kernels, by the names that users know.
KERNELS = {"auto": lib.MP_KERNELS_AUTO, "ours": lib.MP_KERNELS_OURS, "stock": lib.MP_KERNELS_STOCK}

_verbose = False

PIECE_BYTES = 64  # room for one token's bytes in the first attempt; longer ones exist and take a second


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a model, as maskprobe.h describes them."""

    arch: str  # general.architecture
    name: str  # general.name, or ""
    description: str  # llama.cpp's own, for instance "llama 1B Q4_0"
    size: int  # bytes of all tensors
    n_params: int
    n_vocab: int
    n_embd: int
    n_layer: int
    n_layer_mtp: int  # layers for multi-token prediction beside them, 0: none, or they were not loaded
    n_ctx_train: int
    token_bos: int  # -1 where the model has none
    token_eos: int
    token_fim_pre: int  # for filling in the middle: before what precedes it, before what follows it, before itself
    token_fim_suf: int
    token_fim_mid: int
    add_bos: bool  # the tokenizer puts BOS first
    can_tree: bool  # the cache can be rolled back: trees of tokens can be verified
    max_chain: int  # without can_tree: candidates of the longest chain that can be verified; 0 = none
    state_size: int  # bytes of one recurrent state, 0 = the model has none or it is not known
    can_probe: bool  # embedding rows work as input: mask vectors can be used
    embd_scale: float  # what token embeddings are multiplied by before they enter as embedding rows
    kernels: str  # "llama.cpp", or the instruction set of maskprobe's own
    kernels_reason: str  # one line: the share of the weights that these compute, or why they are llama.cpp's
    packed_size: int  # bytes of weights in memory that are packed for maskprobe's kernels, not mapped from the file
    note: str  # one line: why can_tree or can_probe is false, what was limited, and which weights llama.cpp computes
    # so that drafting may change a token; or ""
    placement: str  # one line: which layers lie on which host; "" without RPC hosts


@dataclass(frozen=True, slots=True)
class Device:
    """A compute device of ggml. Memory in bytes."""

    name: str
    description: str
    kind: str  # "cpu", "gpu", "igpu", "accel"
    memory_free: int
    memory_total: int


def devices() -> list[Device]:
    """The compute devices that ggml sees on this machine."""
    found: list[Device] = []
    device = ffi.new("mp_device *")
    while (status := lib.mp_device_get(len(found), device)) != lib.MP_ERR_ARGUMENT:
        check(status)
        name, description, kind = text(device.name), text(device.description), text(device.kind)
        found.append(Device(name, description, kind, device.memory_free, device.memory_total))
    return found


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """What the machine can do at most; the second is 0 where the kernels' instruction set has no dot products."""

    read_bytes_per_second: float
    int8_macs_per_second: float  # multiplications with accumulation


def measure_machine(n_threads: int = 0) -> MachineSpeed:
    """Measures it, in half a second: reading a large buffer, and int8 dot products on registers alone.

    Raises ArgumentError for a number of threads that is out of range."""
    speed = ffi.new("mp_machine_speed *")
    check(lib.mp_measure_machine(n_threads, speed))
    return MachineSpeed(speed.read_bytes_per_second, speed.int8_macs_per_second)


def version() -> str:
    """The version of the compiled core."""
    return text(lib.mp_version())


def compiler() -> str:
    """What the core was compiled with, for instance "gcc 12.2.0"."""
    return text(lib.mp_compiler())


def set_verbose(verbose: bool) -> None:
    """llama.cpp's own log lines: off (the default), or passed on to stderr."""
    global _verbose
    _verbose = verbose
    lib.mp_set_verbose(verbose)


def is_verbose() -> bool:
    """What set_verbose() was told last."""
    return _verbose


def host_list(rpc: Sequence[str]) -> str:
    """RPC hosts as the core takes them. Raises ArgumentError."""
    if isinstance(rpc, str) or not all(isinstance(host, str) and host and "," not in host for host in rpc):
        raise ArgumentError(f'rpc = {shown(rpc)} must be a list of hosts, as ["192.168.1.2:50052"]')
    return ",".join(rpc)


def rpc_serve(endpoint: str, *, n_threads: int = 0, cache: str | os.PathLike[str] | None = None) -> NoReturn:
    """Computes layers of models on other machines (Model's `rpc`) at "address:port", for one program at a time, until
    the process ends. There is no password and no encryption: for trusted networks only. `cache` is a folder for large
    tensors, so that each is sent once.

    Raises ArgumentError, ModelError (ggml's RPC is not there, or it cannot listen at the address)."""
    folder = NULL if cache is None else ffi.new("char[]", c_path(cache, "cache"))
    check(lib.mp_rpc_serve(c_string(endpoint, "the address"), n_threads, folder))
    raise AssertionError("it does not come back")


LoraLike = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]


def c_params(
    *,
    kernels: str = "auto",
    loras: Sequence[LoraLike] = (),
    rpc: Sequence[str] = (),
    tensor_split: Sequence[float] = (),
    **settings: Any,
) -> tuple[Any, tuple[tuple[Path, float], ...], Any]:
    """The mp_model_params of a Model's settings, its adapters, and what must live as long as C reads the first.

    Raises ArgumentError."""
    if not isinstance(kernels, str) or kernels not in KERNELS:
        raise ArgumentError(f"kernels = {shown(kernels)} must be one of {', '.join(KERNELS)}")
    pairs = [lora if isinstance(lora, tuple) else (lora, 1.0) for lora in loras]
    adapters = tuple((Path(file), float(scale)) for file, scale in pairs)
    params = ffi.new("mp_model_params *", lib.mp_model_default_params())
    paths = [ffi.new("char[]", c_path(file, "adapter")) for file, _ in adapters]
    scales = (scale for _, scale in adapters)
    array = ffi.new("mp_lora[]", list(zip(paths, scales, strict=True)))
    hosts = ffi.new("char[]", c_string(host_list(rpc), "the RPC hosts"))
    shares = float_array(tensor_split, "tensor_split")
    fill(params, kernels=KERNELS[kernels], n_loras=len(adapters), loras=array, **settings)
    fill(params, rpc=hosts, n_split=len(shares), split=shares)
    return params, adapters, (paths, array, hosts, shares)


class Model(Owner):
    """A GGUF model. It stays in memory until it and all contexts, engines and samplers on it are closed, in whatever
    order: close() refuses further calls of the model itself and ends nothing that is under way.

    In a forked child of the process that opened it, its facts and texts can be read (info, metadata(), tokenize(),
    token_bytes(), embedding_rows(), chat_format()); nothing can be opened there, see StateError.

    `loras` are LoRA adapters, each a file or (file, scale), which every session of the model has. `progress` is called
    with 0..1 while weights are loaded; if it returns False the load is cancelled, and what it raises comes out of here.
    `rpc` are workers of ggml's RPC, "host:port" each, where the layers lie (ModelInfo.placement says which). They are
    trusted with all of it, and ggml ends this process where one dies. `tensor_split` are the shares of these hosts'
    devices, and of GPUs after them; without it they go by free memory.
    `kernels` is "auto", "ours" or "stock". These and the other settings are those of mp_model_params in maskprobe.h.

    Raises ModelError (missing, unsound or unsupported file), OutOfMemory, Cancelled, ArgumentError, StateError (in a
    forked child).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_gpu_layers: int = -1,
        use_mmap: bool = True,
        use_mlock: bool = False,
        check_tensors: bool = False,
        self_check: bool = True,
        load_mtp: bool = True,
        vocab_only: bool = False,
        kernels: str = "auto",
        n_threads: int = 0,
        loras: Sequence[LoraLike] = (),
        rpc: Sequence[str] = (),
        tensor_split: Sequence[float] = (),
        progress: Callable[[float], bool | None] | None = None,
    ) -> None:
        self.path = Path(path)
        name = c_path(path, "model")
        params, self.loras, _kept = c_params(
            n_gpu_layers=n_gpu_layers,
            use_mmap=use_mmap,
            use_mlock=use_mlock,
            check_tensors=check_tensors,
            self_check=self_check,
            load_mtp=load_mtp,
            vocab_only=vocab_only,
            kernels=kernels,
            n_threads=n_threads,
            loras=loras,
            rpc=rpc,
            tensor_split=tensor_split,
        )
        failures: list[BaseException] = []
        if progress is not None:
            params.progress = callback = progress_callback(progress, failures)  # noqa: F841 (kept alive by the name)
        out = ffi.new("mp_model **")
        status = lib.mp_model_open(name, params, out)
        if failures:
            if status == lib.MP_OK:
                lib.mp_model_free(out[0])
            raise failures[0]
        check(status)
        self._handle = Handle.of(out[0], lib.mp_model_free, "model", can_be_read=True)
        self.info = self._read_info()
        self._pieces: dict[tuple[int, bool], bytes] = {}  # what token_bytes() has said

    def close(self) -> None:
        """Lets go of it; closing twice is fine. Raises StateError ("busy") while another thread is inside."""
        super().close()
        self._pieces = {}  # not cleared: what shares the model has them too

    def _shared(self) -> "Model":
        """The same model for others' use: it is closed by itself, and stays in memory until both are."""
        shared = copy.copy(self)
        shared._handle = self._handle.share()
        return shared

    def _read_info(self) -> ModelInfo:
        raw = ffi.new("mp_model_info *")
        with self._handle as model:
            check(lib.mp_model_get_info(model, raw))
        values: dict[str, Any] = {field.name: getattr(raw, field.name) for field in fields(ModelInfo)}
        values |= {name: text(value) for name, value in values.items() if isinstance(value, ffi.CData)}
        return ModelInfo(**values)

    def metadata(self, key: str) -> str | None:
        """A metadata value of the file as text, None if there is no such key."""
        with self._handle as model:
            value = lib.mp_model_metadata(model, c_string(key, "the metadata key"))
            return None if value == NULL else text(value)

    def metadata_keys(self) -> list[str]:
        """The keys of all metadata but arrays, in alphabetical order."""
        keys: list[str] = []
        with self._handle as model:
            while (key := lib.mp_model_metadata_key(model, len(keys))) != NULL:
                keys.append(text(key))
        return keys

    @property
    def identity(self) -> str:
        """What tells this model from others: files that belong to it, as trained heads do, have this text."""
        return self._identity()[0]

    @property
    def heads_path(self) -> str:
        """Where an Engine(heads="") looks for heads of this model: in the user's cache folder; "" without a home."""
        return self._identity()[1]

    def _identity(self) -> tuple[str, str]:
        found = ffi.new("const char *[2]")
        with self._handle as model:
            check(lib.mp_model_identity(model, found, found + 1))
            return text(found[0]), os.fsdecode(ffi.string(found[1]))

    def tokenize(self, text: str | bytes, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Text to token ids. `add_special` puts BOS (and EOS) where the model wants them; `parse_special` reads the
        texts of special tokens as these tokens.

        Raises ArgumentError for invalid UTF-8 and for an embedded NUL."""
        data = c_string(text, "the text") if isinstance(text, str) else text
        n = ffi.new("int32_t *")
        capacity = len(data) + 8  # no tokenizer makes more tokens than bytes, apart from the special ones
        while True:
            tokens = ffi.new("int32_t[]", capacity)
            with self._handle as model:
                check(lib.mp_tokenize(model, data, len(data), add_special, parse_special, tokens, capacity, n))
            if n[0] <= capacity:
                return ffi.unpack(tokens, n[0])
            capacity = n[0]

    def token_bytes(self, token: int, special: bool = False) -> bytes:
        """The bytes of one token, which may be part of a UTF-8 character. Special tokens have none unless `special`.

        Raises ArgumentError for a token out of range."""
        known = self._pieces.get((token, special))
        if known is not None:
            return known
        n = ffi.new("int32_t *")
        capacity = PIECE_BYTES
        while True:
            piece = ffi.new("char[]", capacity)
            with self._handle as model:
                check(lib.mp_token_bytes(model, token, special, piece, capacity, n))
            if n[0] <= capacity:
                break
            capacity = n[0]
        data = self._pieces[token, special] = ffi.buffer(piece, n[0])[:]
        return data

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> bytes:
        """The bytes of all tokens, one after another."""
        return b"".join(self.token_bytes(token, special) for token in tokens)

    def begins_with_bos(self, text: str) -> bool:
        """Whether a text has the token that begins a text written out already. A model without one, or whose token has
        no bytes, has no such texts."""
        bos = self.info.token_bos
        piece = self.token_bytes(bos, special=True) if bos >= 0 else b""
        return piece != b"" and text.encode().startswith(piece)

    def is_end(self, token: int) -> bool:
        """Whether a token ends the generation (EOS, EOT, ...)."""
        with self._handle as model:
            return lib.mp_token_is_end(model, token)

    @functools.cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """All tokens that end the generation. The first use looks through the whole vocabulary."""
        with self._handle as model:
            return tuple(token for token in range(self.info.n_vocab) if lib.mp_token_is_end(model, token))

    def embedding_rows(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """The input embeddings of tokens as the file has them, float32 (n, n_embd).

        Raises ArgumentError for a token out of range, ModelError where the file has no such table."""
        ids, pointer = token_array(tokens)
        rows = np.empty((len(ids), self.info.n_embd), np.float32)
        with self._handle as model:
            check(lib.mp_model_embedding_rows(model, pointer, len(ids), ffi.from_buffer("float[]", rows)))
        return rows

    def chat_format(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_assistant: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The conversation as the model's own chat template writes it: see ChatTemplate.render(), whose
        `add_generation_prompt` is `add_assistant`. It is for tokenize() with `parse_special`, and without `add_special`
        where it begins with BOS.

        Raises ModelError where the model has no template, or one that fails; ArgumentError for messages that are
        malformed or that the template refuses."""
        with self._handle:
            return self._chat_template.render(messages, tools=tools, add_generation_prompt=add_assistant, **variables)

    @functools.cached_property
    def _chat_template(self) -> "ChatTemplate":
        from .chat_template import ChatTemplate  # with it comes Jinja, which few programs need

        return ChatTemplate(self)
