"""Rows P2, P3 and P5 of hostile files: pickles, operation by operation. Nothing here is ever given to `pickle`."""

import pickle
import pickletools
import struct
import time
from collections import OrderedDict
from collections.abc import Callable

import pytest

from foreign_files import call, items, name, number, pickled, stack_name, storage, table, tensor, text
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.pickle_reader import (
    KNOWN_GLOBALS,
    Inert,
    PickleLimits,
    TensorRef,
    named_tensors,
    read_pickle,
)

RUN = "posix.system"
COMMAND = items(text("exit 1"))

# Ways to code that have passed one scanner or another: the name that such a pickle must spell.
WAYS_TO_CODE = """
os.system posix.system nt.system os.popen subprocess.Popen subprocess.call subprocess.getoutput builtins.eval
builtins.exec builtins.compile builtins.getattr builtins.open builtins.__import__ builtins.map builtins.apply
__builtin__.eval __builtin__.getattr importlib.import_module importlib.util.spec_from_file_location
runpy.run_path runpy._run_code pty.spawn pip.main pip._internal.main pkgutil.resolve_name
code.InteractiveInterpreter bdb.Bdb.run pdb.run profile.run cProfile.run timeit.timeit trace.Trace.run
doctest.debug_script functools.partial functools.reduce operator.attrgetter operator.methodcaller
operator.itemgetter types.FunctionType types.CodeType marshal.loads pickle.loads _pickle.loads dill.loads
cloudpickle.loads joblib.load shelve.open torch.load torch.storage._load_from_bytes torch.hub.load
torch.jit.load torch.ops.load_library torch.utils._config_module.load_config torch.utils.collect_env.run
torch.fx.experimental.symbolic_shapes.eval torch._inductor.codecache.compile_file
torch.distributed.rpc.rpc_sync torch._dynamo.guards.GuardBuilder.get torch.serialization.load numpy.load
numpy.testing._private.utils.runstring numpy.f2py.crackfortran.getlincoef ctypes.CDLL ctypes.util.find_library
socket.create_connection http.client.HTTPConnection urllib.request.urlopen urllib.request.urlretrieve
requests.api.get webbrowser.open smtplib.SMTP ftplib.FTP ssl.get_server_certificate shutil.rmtree
shutil.copyfile os.remove os.unlink os.rename os.kill os.fork os.execv os.putenv sys.exit sys.settrace
asyncio.run asyncio.unix_events._UnixSubprocessTransport._start threading.Thread multiprocessing.Process
multiprocessing.util.spawnv_passfds signal.signal site.addsitedir venv.create ensurepip._run_pip
distutils.file_util.write_file lib2to3.pgen2.grammar.Grammar.loadpkl
lib2to3.pgen2.pgen.ParserGenerator.make_label idlelib.run.Executive.runcode
idlelib.pyshell.ModifiedInterpreter.runcode idlelib.autocomplete.AutoComplete.get_entity
idlelib.calltip.Calltip.fetch_tip idlelib.debugobj.ObjectTreeItem.SetText uuid._get_command_stdout aifc.open
logging.config.dictConfig logging.FileHandler imaplib.IMAP4_stream zipimport.zipimporter.load_module
linecache.getlines tempfile.mktemp pathlib.Path.unlink io.open io.FileIO codecs.open copyreg._reconstructor
collections.namedtuple collections.UserDict yaml.load tensorflow.io.write_file keras.models.load_model
transformers.AutoModel.from_pretrained pandas.eval sympy.sympify numexpr.evaluate
""".split()  # noqa: SIM905


def refused(data: bytes, limits: PickleLimits | None = None) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        read_pickle(data, where="x.ckpt", limits=limits)
    assert len(caught.value.one_line) < 500
    return caught.value


def read(body: bytes, protocol: int = 2) -> object:
    value, end, _ = read_pickle(pickled(body, protocol), where="x.ckpt")
    assert end == len(pickled(body, protocol))
    return value


@pytest.mark.parametrize("way", WAYS_TO_CODE)
def test_no_way_to_code_is_open(way: str) -> None:
    """Each by GLOBAL, by STACK_GLOBAL, and hidden as a value that nobody calls."""
    for body in (
        name(way) + COMMAND + b"R",
        stack_name(way) + COMMAND + b"R",
        table(w=tensor(), x=name(way)),
        table(w=tensor(), x=name(way) + b")\x81"),
    ):
        error = refused(pickled(body, 4))
        assert error.reason == "pickle_global"
        assert way in error.message


def test_the_closed_list_names_no_way_to_code() -> None:
    """A change of the list is a change of this test: everything on it is data, or makes data in pickle_reader.py."""
    assert not KNOWN_GLOBALS & set(WAYS_TO_CODE)
    for known in KNOWN_GLOBALS:
        assert not any(word in known for word in ("system", "eval", "exec", "import", "load", "open", "attr", "sparse"))


ENCODED_PICKLE = b"B" + struct.pack("<I", 20) + b"cposix\nsystem\n(tR...."
# What a hostile pickle does -> its body, the reason.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "GLOBAL and REDUCE": (name(RUN) + COMMAND + b"R", "pickle_global"),
    "STACK_GLOBAL": (stack_name(RUN) + COMMAND + b"R", "pickle_global"),
    "STACK_GLOBAL built from the memo": (
        text("posix") + b"q\x00" + text("system") + b"q\x01" + b"h\x00h\x01\x93" + COMMAND + b"R",
        "pickle_global",
    ),
    "a name put together by a call": (
        call("_codecs.encode", text("posix"), text("latin1")) + text("system") + b"\x93",
        "pickle_damaged",
    ),
    "INST": (b"(" + text("exit 1") + b"iposix\nsystem\n", "pickle_opcode"),
    "OBJ": (b"(" + name(RUN) + text("exit 1") + b"o", "pickle_global"),
    "OBJ of a known name": (b"(" + name("collections.OrderedDict") + b"o", "pickle_opcode"),
    "NEWOBJ": (name(RUN) + COMMAND + b"\x81", "pickle_global"),
    "NEWOBJ of a function": (name("torch._utils._rebuild_tensor_v2") + b")\x81", "pickle_global"),
    "NEWOBJ_EX": (name("collections.OrderedDict") + b")}\x92", "pickle_opcode"),
    "EXT1": (b"\x82\x01", "pickle_opcode"),
    "EXT2": (b"\x83\x01\x00", "pickle_opcode"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "pickle_opcode"),
    "PERSID, a text": (b"Pfile:///etc/passwd\n", "pickle_opcode"),
    "BINPERSID of another kind": (items(text("module"), text("x")) + b"Q", "pickle_damaged"),
    "BINPERSID of a text": (text("0") + b"Q", "pickle_damaged"),
    "BUILD with __setstate__": (b"}" + table(__setstate__=name(RUN)) + b"b", "pickle_global"),
    "BUILD of a tensor": (tensor() + b"}b", "pickle_damaged"),
    "BUILD of a function": (name("torch.Size") + b"}b", "pickle_damaged"),
    "getattr": (call("builtins.getattr", text("os"), text("system")), "pickle_global"),
    "partial": (call("functools.partial", name("torch.Size")), "pickle_global"),
    "resolve_name": (call("pkgutil.resolve_name", text("os:system")), "pickle_global"),
    "a name with dots inside": (text("torch") + text("storage._load_from_bytes") + b"\x93", "pickle_global"),
    "a pickle in bytes": (call("torch.storage._load_from_bytes", ENCODED_PICKLE), "pickle_global"),
    "POP after a call": (name(RUN) + COMMAND + b"R0N", "pickle_global"),
    "POP": (b"NN0", "pickle_opcode"),
    "DUP": (b"N2", "pickle_opcode"),
    "the payload before a broken tail": (name(RUN) + COMMAND + b"R\xff\xff", "pickle_global"),
    "calling a dictionary": (b"})R", "pickle_damaged"),
    "calling a tensor": (tensor() + b")R", "pickle_damaged"),
    "calling a storage class": (call("torch.FloatStorage", number(2**40)), "pickle_global"),
    "calling a dtype": (call("torch.float32"), "pickle_global"),
    "arguments that are no tuple": (name("torch.Size") + b"]R", "pickle_damaged"),
    "BYTEARRAY8": (b"\x96" + struct.pack("<Q", 1) + b"x", "pickle_opcode"),
    "NEXT_BUFFER": (b"\x97", "pickle_opcode"),
    "protocol 0": (b"I1\n", "pickle_opcode"),
    "protocol 0, a text": (b"S'x'\n", "pickle_opcode"),
    "an operation that does not exist": (b"\xfe", "pickle_opcode"),
    "an empty stack": (b"R", "pickle_damaged"),
    "a mark that nobody made": (b"t", "pickle_damaged"),
    "what lies below a mark": (b"N(" + b"\x85" + b"t", "pickle_damaged"),
    "a memo that nobody wrote": (b"h\x07", "pickle_damaged"),
    "two values at the end": (b"NN", "pickle_damaged"),
    "an open mark at the end": (b"N(", "pickle_damaged"),
    "a key without a value": (b"}(" + text("a") + b"u", "pickle_damaged"),
    "a list as a key": (b"}]Ns", "pickle_damaged"),
    "a tensor as a key": (b"}" + tensor() + b"Ns", "pickle_damaged"),
    "a nested tuple as a key": (b"}))\x85\x85" + b"Ns", "pickle_damaged"),
    "a text and a nested tuple as a key": (b"}" + text("a") + b")\x85\x86" + b"Ns", "pickle_damaged"),
    "items of a list": (b"]NNs", "pickle_damaged"),
    "appending to a dictionary": (b"}Na", "pickle_damaged"),
    "a name without an end": (b"c" + b"x" * 5000, "pickle_damaged"),
    "a name that is not UTF-8": (b"c\xff\nx\n", "pickle_damaged"),
    "a text that is not UTF-8": (b"X\x01\x00\x00\x00\xff", "pickle_damaged"),
    "a text beyond the end": (b"X\xff\xff\x00\x00abc", "pickle_damaged"),
    "a frame beyond the end": (b"\x95" + struct.pack("<Q", 2**60), "pickle_damaged"),
    "protocol 6": (b"\x80\x06N", "pickle_damaged"),
    "a dictionary from a number": (call("collections.OrderedDict", number(1)), "pickle_damaged"),
    "a dictionary from no pairs": (call("collections.OrderedDict", items(number(1))), "pickle_damaged"),
    "a dictionary from two lists": (call("collections.OrderedDict", b"]", b"]"), "pickle_damaged"),
    "a size of nothing": (call("torch.Size"), "pickle_damaged"),
    "a size of texts": (call("torch.Size", items(text("a"))), "tensor_bounds"),
    "bytes from a number": (call("_codecs.encode", number(1)), "pickle_damaged"),
    "bytes through another codec": (call("_codecs.encode", text("a"), text("zlib")), "pickle_damaged"),
    "bytes that do not fit": (call("_codecs.encode", text("\u20ac")), "pickle_damaged"),
    "items of a set that is a list": (b"](N\x90", "pickle_damaged"),
    "a dtype of another name": (tensor(make="torch._utils._rebuild_tensor_v3"), "dtype"),
    "another dtype than the storage's": (
        call(
            "torch._utils._rebuild_tensor_v3",
            *(storage(), number(0), items(number(2)), items(number(1)), b"\x89", b"}", name("torch.int32")),
        ),
        "pickle_damaged",
    ),
    "a storage of no class": (
        items(text("storage"), text("x"), text("0"), text("cpu"), number(4)) + b"Q",
        "pickle_damaged",
    ),
    # P3
    "LONG4 of 2 GB": (b"\x8b\xff\xff\xff\x7f", "pickle_limit"),
    "LONG1 of 9 bytes": (b"\x8a\x09" + b"1" * 9, "pickle_limit"),
    "a text of 4 GB": (b"X\xff\xff\xff\xff", "pickle_limit"),
    "a text of 2**63 bytes": (b"\x8d" + struct.pack("<Q", 2**63), "pickle_limit"),
    "bytes of 2 MB": (b"B" + struct.pack("<I", 2**21) + b"x" * 2**21, "pickle_limit"),
    # P5
    "a sparse tensor": (call("torch._utils._rebuild_sparse_tensor", number(0)), "pickle_global"),
    "a quantised tensor": (call("torch._utils._rebuild_qtensor", storage()), "pickle_global"),
    "a nested tensor": (call("torch._utils._rebuild_nested_tensor", storage()), "pickle_global"),
    "a tensor without numbers": (call("torch._utils._rebuild_meta_tensor_no_storage", number(0)), "pickle_global"),
    "a quantised storage": (tensor(of=storage(kind="torch.QInt8Storage")), "pickle_global"),
    "a tensor of complex numbers": (tensor(of=storage(kind="torch.ComplexFloatStorage")), "pickle_global"),
    "a shape beyond the storage": (tensor(shape=(2, 3), stride=(3, 1)), "tensor_bounds"),
    "a stride beyond the storage": (tensor(stride=(100, 1)), "tensor_bounds"),
    "a stride of 2**60": (tensor(stride=(2**60, 1)), "tensor_bounds"),
    "an offset beyond the storage": (tensor(offset=1), "tensor_bounds"),
    "an offset of 2**62": (tensor(offset=2**62), "tensor_bounds"),
    "a negative offset": (tensor(offset=-1), "tensor_bounds"),
    "a negative stride": (tensor(stride=(-2, 1)), "tensor_bounds"),
    "a negative side": (tensor(shape=(-2, 2)), "tensor_bounds"),
    "more strides than sides": (tensor(stride=(2, 1, 1)), "tensor_bounds"),
    "1,000 dimensions": (tensor(shape=(1,) * 1000, stride=(1,) * 1000), "tensor_bounds"),
    "a storage of 2**60 numbers": (tensor(of=storage(count=2**60)), "tensor_bounds"),
    "a storage of -1 numbers": (tensor(of=storage(count=-1)), "tensor_bounds"),
    "a storage with two sizes": (table(a=tensor(), b=tensor(of=storage(count=8))), "tensor_bounds"),
    "a storage with two kinds": (table(a=tensor(), b=tensor(of=storage(kind="torch.IntStorage"))), "tensor_bounds"),
    "a tensor of a text": (tensor(of=text("x")), "pickle_damaged"),
    "a parameter of a text": (call("torch._utils._rebuild_parameter", text("x"), b"\x88", b"}"), "pickle_damaged"),
    "a tensor of two values": (call("torch._utils._rebuild_tensor_v2", storage(), number(0)), "pickle_damaged"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pickle_is_refused_with_a_reason(what: str) -> None:
    body, reason = HOSTILE[what]
    assert refused(pickled(body)).reason == reason


def test_every_operation_of_pickle_is_either_known_or_refused_by_name() -> None:
    from gesso.checkpoints import pickle_reader

    codes = {ord(operation.code): operation.name for operation in pickletools.opcodes}
    assert set(pickle_reader._HANDLERS) | set(pickle_reader._REFUSED) == set(codes)
    assert not set(pickle_reader._HANDLERS) & set(pickle_reader._REFUSED)
    assert all(codes[code] == label for code, label in pickle_reader._REFUSED.items())


def test_a_pickle_cut_anywhere_is_refused() -> None:
    whole = pickled(table(w=tensor(), epoch=number(3)))
    for length in range(len(whole)):
        assert refused(whole[:length]).reason == "pickle_damaged", length


BOMBS: dict[str, Callable[[], bytes]] = {
    "a million marks": lambda: b"\x80\x02" + b"(" * 2_000_000,
    "a billion laughs": lambda: pickled(
        b"]" + b"".join(b"q%c(" % i + b"h%c" % i * 200 + b"l]" for i in range(9)) + b"t"
    ),
    "a memo bomb": lambda: b"\x80\x02N" + b"".join(b"r" + struct.pack("<I", i) for i in range(1_100_000)),
    "deep tuples": lambda: b"\x80\x02N" + b"\x85" * 300_000 + b".",
    "a list of lists": lambda: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}


@pytest.mark.parametrize("what", BOMBS)
def test_bombs_end_soon(what: str) -> None:
    """Row P3. The bound is generous: 10**6 operations take well below a second of CPU."""
    data = BOMBS[what]()
    begin = time.process_time()
    with pytest.raises(ModelFileError) as caught:
        named_tensors(read_pickle(data, where="x")[0], where="x")
    assert caught.value.reason in {"pickle_limit", "pickle_opcode", "pickle_damaged", "pickle_content"}
    assert time.process_time() - begin < 10


def test_limits_are_those_given() -> None:
    many = pickled(table(**{f"t{i}": tensor() for i in range(5)}))
    assert refused(many, PickleLimits(tensors=4)).reason == "pickle_limit"
    assert refused(many, PickleLimits(operations=50)).reason == "pickle_limit"
    assert refused(many, PickleLimits(text=6)).reason == "pickle_limit"
    assert refused(pickled(b"Nq\x00q\x01q\x02"), PickleLimits(memo=2)).reason == "pickle_limit"
    assert read_pickle(pickled(b"Nq\x00q\x01"), where="x", limits=PickleLimits(memo=2))[0] is None


PLAIN = [
    None,
    True,
    -1,
    255,
    65535,
    2**31 - 1,
    -(2**63),
    1.5,
    "text",
    "ünïcode",
    "\ud800",
    b"bytes",
    b"x" * 300,
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    [],
    [1],
    [1, "a", None],
    {},
    {"a": 1, 2: "b", (1, "x"): [3]},
    {f"key {i}": [i] * 3 for i in range(2000)},
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", PLAIN, ids=[str(index) for index in range(len(PLAIN))])
def test_plain_values_are_read_as_python_reads_them(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert read_pickle(data, where="x") == (value, len(data), {})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_sets_and_ordered_dictionaries(protocol: int) -> None:
    value = OrderedDict(a=1, b=OrderedDict(c=2))
    assert read_pickle(pickle.dumps(value, protocol), where="x")[0] == {"a": 1, "b": {"c": 2}}
    assert isinstance(read_pickle(pickle.dumps({1, 2}, protocol), where="x")[0], Inert)
    assert isinstance(read_pickle(pickle.dumps(frozenset({1}), protocol), where="x")[0], Inert)


def test_strings_of_python_2_are_text_or_bytes() -> None:
    assert read(b"U\x03abc") == "abc"
    assert read(b"T\x02\x00\x00\x00\xff\x00") == b"\xff\x00"


def test_dictionaries_from_pairs_and_sizes() -> None:
    pairs = items(items(text("a"), number(1)), b"](" + text("b") + number(2) + b"e")
    assert read(call("collections.OrderedDict", pairs)) == {"a": 1, "b": 2}
    assert read(call("collections.Counter", table(a=number(3)))) == {"a": 3}
    assert read(call("collections.defaultdict", name("builtins.list"))) == {}
    assert read(call("torch.Size", items(number(2), number(3)))) == (2, 3)
    assert read(call("_codecs.encode", text("\xff"), text("latin1"))) == b"\xff"
    assert isinstance(read(b"(N\x91"), Inert)
    assert isinstance(read(b"\x8f(N\x90"), Inert)


def test_a_tensor_of_bytes_tells_its_dtype() -> None:
    of = storage(kind="torch.storage.UntypedStorage", count=8)
    args = (of, number(1), items(number(3)), items(number(2)), b"\x89", b"}", name("torch.float8_e5m2"))
    found = read(call("torch._utils._rebuild_tensor_v3", *args))
    assert isinstance(found, TensorRef)
    assert (found.dtype, found.storage.nbytes, found.offset) == ("F8_E5M2", 8, 1)


def test_attributes_of_a_state_dict_are_let_go() -> None:
    body = call("collections.OrderedDict") + table(_metadata=b"}") + b"b"
    assert read(body) == {}


def test_a_tensor_is_a_window() -> None:
    found = read(tensor(shape=(1, 2), stride=(7, 2), offset=1))
    assert isinstance(found, TensorRef)
    assert (found.dtype, found.offset, found.shape, found.stride) == ("F32", 1, (1, 2), (7, 2))
    assert (found.count, found.nbytes, found.is_contiguous) == (2, 8, False)
    empty = read(tensor(shape=(0, 5), stride=(5, 1), offset=4))
    assert isinstance(empty, TensorRef) and empty.count == 0


def test_harmless_classes_become_placeholders() -> None:
    key = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    body = b"}(" + name(key) + table(best=number(1)) + text("device") + call("torch.device", text("cuda")) + b"u"
    found = read(body)
    assert isinstance(found, dict)
    assert [getattr(k, "name", k) for k in found] == [key, "device"]
    assert isinstance(found["device"], Inert)


# ---- which tensors are the weights -----------------------------------------------------------------------------------


def names(**values: bytes) -> tuple[list[str], list[str]]:
    found, left = named_tensors(read(table(**values)), where="x")
    return list(found), left


def test_tensors_at_the_top_or_under_state_dict() -> None:
    assert names(a=tensor(), epoch=number(1)) == (["a"], ["epoch (int)"])
    assert names(state_dict=table(a=tensor(), n=b"N"), global_step=number(1), opt=b"]") == (
        ["a"],
        ["global_step (int)", "opt (list of 0)", "n (NoneType)"],
    )
    assert names(params=table(a=tensor()), params_ema=table(b=tensor()))[0] == ["b"]


def test_an_ip_adapter_is_joined_with_dots() -> None:
    assert names(image_proj=table(**{"proj.weight": tensor()}), ip_adapter=table(**{"1.to_k_ip.weight": tensor()}))[
        0
    ] == [
        "image_proj.proj.weight",
        "ip_adapter.1.to_k_ip.weight",
    ]


def test_a_textual_inversion_is_its_vectors() -> None:
    plain = table(**{"*": tensor()})
    words = table(**{"*": number(265)})
    assert names(string_to_token=words, string_to_param=plain, name=text("x"))[0] == ["emb_params"]
    module = (
        name("torch.nn.modules.container.ParameterDict") + b")\x81" + table(_parameters=plain, training=b"\x88") + b"b"
    )
    assert names(string_to_token=words, string_to_param=module)[0] == ["emb_params"]


@pytest.mark.parametrize(
    "values",
    [
        {"epoch": number(1)},
        {"optimizer": table(state=table(a=tensor()))},
        {"string_to_param": b"N"},
        {"string_to_param": table(a=tensor(), b=tensor())},
        {"__metadata__": tensor()},
        {"x" * 513: tensor()},
    ],
)
def test_a_pickle_without_named_tensors_is_refused(values: dict[str, bytes]) -> None:
    with pytest.raises(ModelFileError) as caught:
        names(**values)
    assert caught.value.reason == "pickle_content"


@pytest.mark.parametrize("body", [tensor(), b"]" + tensor() + b"a", b"N", b"}" + number(1) + tensor() + b"s"])
def test_tensors_without_names_are_refused(body: bytes) -> None:
    with pytest.raises(ModelFileError) as caught:
        named_tensors(read(body), where="x")
    assert caught.value.reason == "pickle_content"


def test_nothing_is_imported_or_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader must not reach for pickle, for imports or for attributes by name, whatever it reads."""

    def forbidden(*args: object, **kwargs: object) -> object:
        raise AssertionError(args)

    made: list[Callable[..., object]] = []
    for owner, attribute in ((pickle, "loads"), (pickle, "load"), (pickle, "Unpickler")):
        monkeypatch.setattr(owner, attribute, forbidden)
        made.append(forbidden)
    monkeypatch.setattr("builtins.__import__", forbidden)
    value, _, _ = read_pickle(pickled(table(w=tensor())), where="x")
    monkeypatch.undo()
    assert list(value) == ["w"] and len(made) == 3
