"""The options that commands share, in groups. Names and defaults are llama.cpp's where it has the option."""

from typing import Any

from ..proposers import SOURCES
from . import files, values

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
KERNELS = ("auto", "ours", "stock")
SWITCH = {"on": 1, "off": 0, "auto": -1}
PROPOSE = [name for name in SOURCES if name != "esp-soft"]  # that is esp with --mask-init soft
# The options of esp alone and their defaults; argparse leaves None, so that one given with another source is seen.
ESP_DEFAULTS = {"tree": "14", "masks": None, "mask_children": "all", "mask_init": "mean", "mask_update": 0.0}
SEED_MAX = 2**32 - 2  # llama.cpp takes the number above for "random"

THREADS_MAX = 512  # ggml's own limit


def option(group: Any, *names: str, help: str, **settings: Any) -> None:
    """An option with a value; its help text ends with the default, if it has one that says something."""
    if settings.get("default") not in (None, [], ()):
        help += " (default: %(default)s)"
    group.add_argument(*names, help=help, **settings)


def add_text_options(group: Any) -> None:
    """How texts of the command line are read, and where a generated one ends."""
    group.add_argument(
        "-e",
        "--escape",
        action="store_true",
        default=True,
        help=r"read \n \t \r \' \" \\ \xHH in -p, -sys and -r (default); a file is taken as it is",
    )
    group.add_argument("--no-escape", action="store_false", dest="escape", help="take backslashes as they are")
    option(
        group,
        "-n",
        "--predict",
        "--n-predict",
        metavar="N",
        type=values.integer(-1),
        default=-1,
        help="tokens to generate at most, -1 = until the text ends or the context is full",
    )
    group.add_argument(
        "-r",
        "--reverse-prompt",
        metavar="TEXT",
        action="append",
        default=[],
        help="stop where this text comes, without printing it; may be repeated",
    )
    group.add_argument("--ignore-eos", action="store_true", help="never generate a token that ends the text")


def add_model_options(group: Any, several: bool = False) -> None:
    """`several`: -m and -hf may be repeated and come together."""
    layers = values.integer(-1, auto=-1, all=-1)
    source = group if several else group.add_mutually_exclusive_group()
    file, what = "FILE", "a GGUF file or a known model's name (default: smollm2)"
    repo = "user/repo[:quant] on Hugging Face, downloaded once"
    repeats: dict[str, Any] = {}
    if several:
        file = "[NAME=]FILE"
        what = "a GGUF file or a known model's name, served by its own name or by NAME; may be repeated"
        repo += "; may be repeated"
        repeats = {"action": "append", "default": []}
    option(source, "-m", "--model", metavar=file, help=what, **repeats)
    option(source, "-hf", "--hf-repo", metavar="REPO", help=repo, **repeats)
    option(
        group,
        "-ngl",
        "--gpu-layers",
        "--n-gpu-layers",
        metavar="N",
        type=layers,
        default=-1,
        help="layers kept on a GPU; -1, 'auto' and 'all' mean all",
    )
    group.add_argument("--mlock", action="store_true", help="keep the weights in RAM")
    group.add_argument("--no-mmap", action="store_true", help="read the file instead of mapping it")
    option(
        group,
        "--kernels",
        choices=KERNELS,
        metavar="auto|ours|stock",
        default="auto",
        help="CPU kernels: ours, which repack the weights into memory, or llama.cpp's; auto = ours where the weights "
        "lie on the CPU and most of them have a type of ours",
    )
    option(
        group,
        "--lora",
        metavar="FILE[:SCALE]",
        type=values.lora,
        action="append",
        default=[],
        help="a LoRA adapter in GGUF, its effect times SCALE (default: 1); may be repeated, they add up",
    )
    add_hosts(group)
    group.add_argument("--check-tensors", action="store_true", help="refuse NaN and infinite weights; reads all of it")


def add_hosts(group: Any) -> None:
    option(
        group,
        "--rpc",
        metavar="HOST:PORT[,...]",
        type=values.hosts,
        default=(),
        help="workers of ggml's RPC that the layers lie on; trusted networks only (docs/hosts.md)",
    )
    option(
        group,
        "-ts",
        "--tensor-split",
        metavar="N0[,N1...]",
        type=values.shares,
        default=(),
        help="shares of the layers for the devices of --rpc in their order, then for GPUs (default: by free memory)",
    )


def add_context_options(group: Any) -> None:
    tokens, threads = values.integer(0), values.integer(-1, THREADS_MAX)
    cache = {"choices": CACHE_TYPES, "metavar": "TYPE", "default": "f16"}
    option(
        group,
        "-c",
        "--ctx-size",
        metavar="N",
        type=tokens,
        default=0,
        help="context in tokens, 0 = the model's, as far as memory goes",
    )
    option(
        group,
        "-b",
        "--batch-size",
        metavar="N",
        type=values.integer(1),
        default=2048,
        help="prompt tokens given to llama.cpp at once",
    )
    option(
        group,
        "-ub",
        "--ubatch-size",
        metavar="N",
        type=tokens,
        default=0,
        help="tokens in one graph, 0 = 512, or less where that would take much memory",
    )
    option(
        group, "-t", "--threads", metavar="N", type=threads, default=-1, help="threads, -1 = one for each physical core"
    )
    option(
        group,
        "-tb",
        "--threads-batch",
        metavar="N",
        type=threads,
        default=-1,
        help="threads while the prompt is evaluated, -1 = as -t",
    )
    option(
        group,
        "-fa",
        "--flash-attn",
        choices=SWITCH,
        metavar="on|off|auto",
        default="auto",
        help="flash attention; auto = on with our kernels, else off on the CPU and llama.cpp's choice on a GPU",
    )
    option(group, "-ctk", "--cache-type-k", help=f"type of the K cache: {', '.join(CACHE_TYPES)}", **cache)
    option(group, "-ctv", "--cache-type-v", help="type of the V cache; a quantised one needs -fa on", **cache)


def add_memory_option(group: Any) -> None:
    group.add_argument(
        "--memory",
        action="store_true",
        help="print what this will take of memory, load nothing, and exit: with 1 where it does not fit",
    )


def add_sampling_options(group: Any) -> None:
    count, share, any_number = values.integer(0), values.number(0, 1), values.number()
    option(
        group,
        "-s",
        "--seed",
        metavar="N",
        type=values.integer(-1, SEED_MAX),
        default=-1,
        help="seed, -1 = a random one, told in the statistics",
    )
    option(
        group,
        "--temp",
        metavar="X",
        type=values.number(0),
        default=0.8,
        help="temperature, 0 = always the most likely token",
    )
    option(group, "--top-k", metavar="N", type=count, default=40, help="the N most likely tokens, 0 = off")
    option(group, "--top-p", metavar="X", type=share, default=0.95, help="the likeliest with X of the mass, 1 = off")
    option(group, "--min-p", metavar="X", type=share, default=0.05, help="those above X times the best one, 0 = off")
    option(
        group,
        "--repeat-last-n",
        metavar="N",
        type=values.integer(-1),
        default=64,
        help="tokens that the penalties look back at, 0 = off, -1 = the context",
    )
    option(group, "--repeat-penalty", metavar="X", type=values.number(above=0), default=1.0, help="1 = off")
    option(group, "--presence-penalty", metavar="X", type=any_number, default=0.0, help="0 = off")
    option(group, "--frequency-penalty", metavar="X", type=any_number, default=0.0, help="0 = off")
    option(
        group,
        "-l",
        "--logit-bias",
        metavar="TOKEN(+|-)BIAS",
        type=values.logit_bias,
        action="append",
        default=[],
        help="change a token's logit: 15043+1, 15043-0.5; never: 15043-inf, 15043=false; may be repeated",
    )
    grammar = group.add_mutually_exclusive_group()
    text, file = {"type": values.unicode_text}, {"metavar": "FILE", "help": "the same, from a file"}
    option(grammar, "--grammar", metavar="GBNF", help="a grammar that the completion follows", **text)
    option(grammar, "--grammar-file", type=values.text_file, **file)
    schema = "a JSON schema that the completion follows"
    option(grammar, "-j", "--json-schema", metavar="SCHEMA", type=values.json_schema, help=schema)
    option(grammar, "-jf", "--json-schema-file", type=values.json_schema_file, **file)
    option(grammar, "--regex", metavar="PATTERN", help="a regular expression that the completion matches", **text)
    group.add_argument(
        "--json-whitespace",
        action="store_true",
        help="-j, -jf: let the model choose the white space of the JSON; default: ', ' and ': ', no line breaks",
    )


def add_heads(group: Any) -> None:
    option(
        group,
        "--heads",
        metavar="FILE|off|auto",
        type=values.heads,
        default="auto",
        help="all: heads that were trained for the model; auto = those in the user's cache directory, else the layers "
        "for multi-token prediction in the model's own file, if there are any; off = none",
    )


def add_trained_masks(group: Any) -> None:
    option(
        group,
        "--trained-masks",
        metavar="FILE",
        type=values.existing_file,
        help="all: masks after its nodes, from a file that was trained for the model; esp: --mask-init file:FILE",
    )


def add_probing_options(group: Any) -> None:
    option(
        group,
        "--propose",
        choices=PROPOSE,
        metavar="NAME",
        default="all",
        help="where candidates come from: " + ", ".join(f"{name} = {SOURCES[name].describes}" for name in PROPOSE),
    )
    option(
        group,
        "--tree",
        metavar="TREE",
        type=values.tree,
        help="esp: candidates at each depth, as 14 or 7,2, or 'dynamic' (default: 14)",
    )
    option(
        group,
        "--rows",
        metavar="N|auto",
        type=values.rows,
        help="rows of a pass at most; auto (default): all = as many as pay on this machine, pass by pass, else the "
        "source's own number; esp: for --tree dynamic (auto: 30)",
    )
    state = group.add_mutually_exclusive_group()
    option(
        state,
        "--state",
        metavar="FILE",
        type=files.state_file,
        help="all: where what was learned of the model is kept (default: a file in the user's cache directory)",
    )
    state.add_argument("--no-state", action="store_true", help="all: keep nothing, and begin without it")
    add_heads(group)
    add_trained_masks(group)
    option(
        group,
        "--masks",
        metavar="K",
        type=values.integer(1, values.ROWS_MAX),
        help="esp: masks after a node (default: the depth of the tree, dynamic: 2)",
    )
    option(
        group,
        "--mask-children",
        metavar="C|all|last",
        type=values.mask_children,
        help="esp: masks after the root and its best C children, after all nodes or after the deepest (default: all)",
    )
    option(
        group,
        "--mask-init",
        metavar="KIND",
        type=values.mask_embedding,
        help="esp: mask vectors: mean, last-k, last-k:K, sample, soft, tuned, tuned:PATH, token:ID or file:PATH "
        "(default: mean)",
    )
    option(
        group,
        "--mask-update",
        metavar="X",
        type=values.number(0, 1),
        help="esp: how far the mask vectors move towards each new token (default: 0.0)",
    )


def model_settings(args: Any) -> dict[str, Any]:
    """Of Model, as the options say."""
    return {
        "n_gpu_layers": args.gpu_layers,
        "use_mmap": not args.no_mmap,
        "use_mlock": args.mlock,
        "check_tensors": args.check_tensors,
        "load_mtp": args.propose == "all" and args.heads is not None,
        "kernels": args.kernels,
        "n_threads": max(args.threads, 0),
        "loras": args.lora,
        "rpc": args.rpc,
        "tensor_split": args.tensor_split,
    }


def engine_settings(args: Any, proposer: Any) -> dict[str, Any]:
    """Of Engine, as the options say, but for its state. `proposer`: a name or a Proposer."""
    of_all = proposer == "all"
    return {
        "n_ctx": args.ctx_size,
        "n_threads": max(args.threads, 0),
        "n_threads_batch": max(args.threads_batch, 0),
        "proposer": proposer,
        "rows": "auto" if args.rows is None else args.rows,
        "masks": f"file:{args.trained_masks}" if of_all and args.trained_masks is not None else "none",
        "heads": args.heads if of_all else None,
        "n_batch": args.batch_size,
        "n_ubatch": args.ubatch_size,
        "type_k": args.cache_type_k,
        "type_v": args.cache_type_v,
        "flash_attn": SWITCH[args.flash_attn],
    }
