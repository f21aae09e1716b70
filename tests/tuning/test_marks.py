"""Reservations are found in real signed files and in XMP, and nothing hostile in them does harm."""

import json
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gesso.errors import GessoError
from gesso.tuning import marks
from gesso.tuning.buckets import BucketRules
from gesso.tuning.dataset import Defaults
from gesso.tuning.marks import Marks, Reservations, assertions, boxes, cbor, marks_of
from gesso.tuning.reading import read_dataset
from gesso.tuning.survey import survey
from tuning.made import save_picture

PLUS = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" {}</rdf:RDF></x:xmpmeta>"""
ATTRIBUTE = 'plus:DataMining="http://ns.useplus.org/ldf/vocab/{}"/>'
ELEMENT = "><plus:DataMining>http://ns.useplus.org/ldf/vocab/{}</plus:DataMining></rdf:Description>"
LINK = '><plus:DataMining rdf:resource="http://ns.useplus.org/ldf/vocab/{}"/></rdf:Description>'


def with_xmp(path: Path, xmp: str) -> Path:
    image = Image.new("RGB", (32, 32), "teal")
    if path.suffix == ".png":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", xmp)
        image.save(path, pnginfo=texts)
    else:
        image.save(path, xmp=xmp.encode())
    return path


@pytest.mark.parametrize("end", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("form", [ATTRIBUTE, ELEMENT, LINK])
def test_iptc(form, end, tmp_path):
    no = "DMI-PROHIBITED-GENAIMLTRAINING"
    assert marks_of(with_xmp(tmp_path / f"no{end}", PLUS.format(form.format(no)))).reserved == f"IPTC {no}"
    for value in ("DMI-ALLOWED", "DMI-UNSPECIFIED"):
        assert marks_of(with_xmp(tmp_path / f"yes{end}", PLUS.format(form.format(value)))) == Marks()


def test_tdm_reservation(tmp_path):
    xmp = '<rdf:Description xmlns:tdm="http://www.w3.org/ns/tdmrep/" tdm:reservation="{}"/>'
    assert marks_of(with_xmp(tmp_path / "a.png", xmp.format(1))).reserved == "TDM reservation in XMP"
    assert marks_of(with_xmp(tmp_path / "b.png", xmp.format(0))) == Marks()
    rules = [{"location": "/free*", "tdm-reservation": 0}, {"location": "*.jpg$", "tdm-reservation": 1}]
    (tmp_path / "tdmrep.json").write_text(json.dumps(rules))
    for name, says in (("free.jpg", ""), ("mine.jpg", "TDM reservation in tdmrep.json"), ("mine.png", "")):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        assert marks_of(tmp_path / name).reserved == says, name
    for damaged in ("{", "[1]", '{"location": 3}', "[" * 10_000):
        (tmp_path / "tdmrep.json").write_text(damaged)
        assert marks_of(tmp_path / "mine.jpg") == Marks()


def test_tables_above_a_picture_count_up_to_the_root_and_are_read_once(tmp_path, monkeypatch):
    root = tmp_path / "set"
    (root / "img" / "2_cat").mkdir(parents=True)
    paths = [root / "img" / "2_cat" / name for name in ("a.png", "b.png")]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    (tmp_path / "tdmrep.json").write_text(json.dumps([{"location": "/", "tdm-reservation": 1}]))  # above the root
    (root / "tdmrep.json").write_text(json.dumps([{"location": "/img/2_cat/a*", "tdm-reservation": 1}]))
    (paths[0].parent / "tdmrep.json").write_text(json.dumps([{"location": "/*", "tdm-reservation": 0}]))
    tables, real = [], marks.loads
    monkeypatch.setattr(marks, "loads", lambda text: tables.append(text) or real(text))
    found = Reservations()
    says = [marks_of(path, found, root).reserved for path in paths]
    assert says == ["TDM reservation in tdmrep.json", ""] and len(tables) == 2
    assert marks_of(paths[0]) == Marks()  # without a root, the picture's own folder
    data = read_dataset(root, Defaults())
    rules = BucketRules(resolution=(64, 64), low=32, high=128, step=16)
    assert survey(data, rules).reserved == ((paths[0], "TDM reservation in tdmrep.json"),)


def test_made_by_an_ai(tmp_path):
    uri = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    xmp = f'<rdf:Description Iptc4xmpExt:DigitalSourceType="{uri}"/>'
    assert marks_of(with_xmp(tmp_path / "a.jpg", xmp)) == Marks(generated=True)


# ---- C2PA ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    """A signer with a chain of our own, for files as Adobe's library writes them."""
    c2pa = pytest.importorskip("c2pa")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.now(UTC)

    def certificate(name, key, issuer, by, *, is_root):
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False,
        )  # fmt: skip
        built = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name),
                                     x509.NameAttribute(NameOID.ORGANIZATION_NAME, "gesso tests")]))
            .issuer_name(issuer).public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root,
                                         crl_sign=is_root, **usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )  # fmt: skip
        if not is_root:
            usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            built = built.add_extension(usages, critical=False)
        return built.sign(by, hashes.SHA256())

    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root"),
                      x509.NameAttribute(NameOID.ORGANIZATION_NAME, "gesso tests")])  # fmt: skip
    root = certificate("root", keys[0], name, keys[0], is_root=True)
    leaf = certificate("leaf", keys[1], name, keys[0], is_root=False)
    pem = serialization.Encoding.PEM
    chain = leaf.public_bytes(pem) + root.public_bytes(pem)
    secret = keys[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=secret, ta_url=None)
    return c2pa, info


def signed(signer, path: Path, assertion: dict) -> Path:
    c2pa, info = signer
    plain = path.with_name(f"plain{path.suffix}")
    Image.effect_noise((64, 64), 40).convert("RGB").save(plain)
    created = {"action": "c2pa.created", "digitalSourceType": "http://c2pa.org/digitalsourcetype/empty"}
    definition = {
        "claim_generator_info": [{"name": "tests", "version": "1"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}, assertion],
    }
    kind = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}[path.suffix]
    with c2pa.Builder(json.dumps(definition)) as builder, plain.open("rb") as source, path.open("w+b") as dest:
        builder.sign(c2pa.Signer.from_info(info), kind, source, dest)
    return path


@pytest.mark.parametrize("end", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize(
    ("label", "entry", "says"),
    [
        (
            "cawg.training-mining",
            {"cawg.ai_generative_training": {"use": "notAllowed"}},
            "ai_generative_training notAllowed",
        ),
        ("c2pa.training-mining", {"c2pa.ai_training": {"use": "constrained"}}, "ai_training constrained"),
        ("cawg.training-mining", {"cawg.ai_training": {"use": "allowed"}}, ""),
        ("cawg.training-mining", {"cawg.ai_inference": {"use": "notAllowed"}}, ""),
    ],
)  # fmt: skip
def test_c2pa_in_files_that_its_library_signed(label, entry, says, end, signer, tmp_path):
    path = signed(signer, tmp_path / f"a{end}", {"label": label, "data": {"entries": entry}})
    assert marks_of(path).reserved == (f"C2PA {label}: {says}" if says else "")


def jumbf(label: str, kind: bytes, content: bytes) -> bytes:
    def box(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), name) + body

    return box(b"jumb", box(b"jumd", bytes(16) + b"\3" + label.encode() + b"\0") + box(kind, content))


def test_boxes_that_make_no_sense():
    good = jumbf("cawg.training-mining", b"json", b'{"entries": {}}')
    assert list(assertions(good)) == [("cawg.training-mining", {"entries": {}})]
    assert list(assertions(good[:20])) == [] and list(boxes(b"\0\0\0\4abcd" * 3)) == []
    nested = b""
    for _ in range(100):
        nested = struct.pack(">I4s", 8 + len(nested), b"jumb") + nested
    assert list(assertions(nested)) == []


def test_cbor():
    assert cbor(bytes.fromhex("a26161016162820203")) == {"a": 1, "b": [2, 3]}
    assert cbor(bytes.fromhex("bf61610161629f0203ffff")) == {"a": 1, "b": [2, 3]}
    assert cbor(bytes.fromhex("c074323031332d30332d32315432303a30343a30305a")) == "2013-03-21T20:04:00Z"
    assert [cbor(bytes.fromhex(one)) for one in ("f4", "f5", "f6", "20", "f93e00", "fb3ff199999999999a")] == [
        False, True, None, -1, 1.5, 1.1,
    ]  # fmt: skip
    for damaged in ("", "81", "5b7fffffffffffffff00", "9f" * 40, "1c", "bf6161"):
        with pytest.raises((ValueError, IndexError)):
            cbor(bytes.fromhex(damaged))


def test_random_damage_is_no_mark(tmp_path, signer):
    import random

    data = bytearray(
        signed(
            signer,
            tmp_path / "a.jpg",
            {"label": "cawg.training-mining", "data": {"entries": {"cawg.ai_training": {"use": "notAllowed"}}}},
        ).read_bytes()
    )
    rng = random.Random(2)
    for _ in range(150):
        torn = bytearray(data)
        for _ in range(rng.randint(1, 12)):
            torn[rng.randrange(len(torn))] = rng.randrange(256)
        (tmp_path / "torn.jpg").write_bytes(torn[: rng.randint(10, len(torn))])
        marks_of(tmp_path / "torn.jpg")  # raises nothing
    assert marks_of(tmp_path / "nowhere.png") == Marks()


# ---- in a data set ---------------------------------------------------------------------------------------------------

RULES = BucketRules(resolution=(64, 64), low=32, high=128, step=32)


def test_reserved_pictures_are_left_out_unless_asked_for(tmp_path):
    save_picture(tmp_path / "own.png", 1)
    with_xmp(tmp_path / "theirs.png", PLUS.format(ATTRIBUTE.format("DMI-PROHIBITED")))
    data = read_dataset(tmp_path, Defaults())
    found = survey(data, RULES)
    assert [one.example.path.name for one in found.found] == ["own.png"]
    assert [(path.name, by) for path, by in found.reserved] == [("theirs.png", "IPTC DMI-PROHIBITED")]
    both = survey(data, RULES, include_reserved=True)
    assert len(both.found) == 2 and len(both.reserved) == 1
    (tmp_path / "own.png").unlink()
    with pytest.raises(GessoError, match=r"theirs\.png: is reserved \(IPTC DMI-PROHIBITED\), as all pictures") as error:
        survey(read_dataset(tmp_path, Defaults()), RULES)
    assert error.value.code == "reserved"
