"""Pickles as Python 2 wrote them: text and bytes are one type there."""

import io
import pickle


class _Python2Pickler(pickle._Pickler):
    def save_text(self, text):
        content = text.encode("latin1") if isinstance(text, str) else text
        if len(content) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(content)]) + content)
        else:
            self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        self.memoize(text)

    def save(self, value, save_persistent_id=True):
        if type(value) in (str, bytes) and id(value) not in self.memo:
            self.save_text(value)
        else:
            super().save(value, save_persistent_id)


def dumps_python2(value) -> bytes:
    """Protocol 2, with numpy under its old name."""
    file = io.BytesIO()
    _Python2Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
