"""Forms that cost their reader much, or are none. Their boundary is B."""

HEAD = b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
END = b"\r\n--B--\r\n"
_MIB = 1 << 20
HOSTILE = {
    "a preamble of line breaks": b"\r\n" * (4 * _MIB),
    "a preamble of boundaries that are none": b"\r\n--A" * _MIB,
    "a preamble without an end": b"x" * (8 * _MIB),
    "50,000 headers": b"--B\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(50_000)) + b"\r\nx" + END,
    "50,000 folded lines": b"--B\r\nX: 1\r\n" + b" folded\r\n" * 50_000 + b"\r\nx" + END,
    "50,000 parameters": b"--B\r\nContent-Disposition: form-data" + b";a=b" * 50_000 + b"\r\n\r\nx" + END,
    "2,000 parameters": b"--B\r\nContent-Disposition: form-data" + b";a=b" * 2000 + b"\r\n\r\nx" + END,
    "22,000 parts": HEAD.join([b""] + [b"\r\n"] * 22_000) + END,
    "22,000 parts without headers": b"--B\r\n\r\n\r\n" * 22_000 + END,
    "a header of a megabyte": b"--B\r\nX: " + b"a" * _MIB + b"\r\n\r\nx" + END,
    "a header of spaces that ends in a null": b"--B\r\nX:" + b" " * 8000 + b"\0\r\n\r\nx" + END,
    "a head without an end": b"--B\r\n" + b"a" * 8 * _MIB,
    "a form in a form": b"--B\r\nContent-Type: multipart/mixed; boundary=C\r\n\r\n--C--" + END,
    "an encoded part": b"--B\r\nContent-Transfer-Encoding: base64\r\n\r\neA==" + END,
    "a compressed part": b"--B\r\nContent-Encoding: gzip\r\n\r\nx" + END,
    "a header twice": b"--B\r\nX: 1\r\nX: 2\r\n\r\nx" + END,
    "a parameter twice": b'--B\r\nContent-Disposition: form-data; name="a"; name="b"\r\n\r\nx' + END,
    "a null in a header": b"--B\r\nX: \0\r\n\r\nx" + END,
    "a boundary with more on its line": b"--Bx\r\n\r\nx" + END,
    "no last boundary": HEAD + b"x" * 1000,
    "half a last boundary": HEAD + b"x\r\n--B-",
    "nothing": b"",
}
