"""What is said of packages that are not there."""

from gesso.extras import install_command, missing_extra


def test_a_missing_package_is_told_with_what_to_type():
    error = missing_extra("`traces`", "OpenTelemetry", "otel", ModuleNotFoundError("no"), field="traces")
    install = install_command("otel")
    assert error.message == f"`traces` needs OpenTelemetry, which is not installed. Install it with: {install}"
    assert (error.code, error.field) == ("missing_extra", "traces") and "gesso[otel]" in install


def test_a_package_that_is_there_and_broken_says_why():
    error = missing_extra("canny", "OpenCV", "hints", ImportError("libGL.so.1: cannot open shared object file"))
    assert "which cannot be imported (libGL.so.1: cannot open shared object file)" in error.message
