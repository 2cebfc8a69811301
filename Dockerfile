# One image: the services, the command for people, and what they import. It needs no shell and writes nothing.
# Both stages have the same interpreter at the same place, so that the environment can be copied as it is.
# A tag is a promise: append @sha256:... of the one that you have verified.
ARG PYTHON=docker.io/library/python:3.13.9-slim-trixie

FROM ${PYTHON} AS build
# The same files make the same image: for hatchling and for compileall.
ENV SOURCE_DATE_EPOCH=0
WORKDIR /src
COPY requirements-runtime.lock requirements-build.lock ./
# One of them comes as source only; what it is built with is locked, too.
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements-build.lock \
 && /opt/build/bin/python -m pip wheel --no-cache-dir --no-build-isolation --require-hashes -w /opt/wheels -r requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY services services
RUN /opt/build/bin/hatchling build -t wheel -d /opt/wheels \
 && python -m venv --without-pip /opt/exeunt \
 && /opt/build/bin/python -m pip --python /opt/exeunt/bin/python install --no-cache-dir --no-compile --no-index --no-deps /opt/wheels/*.whl \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/exeunt/lib

FROM ${PYTHON}
COPY --from=build /opt/exeunt /opt/exeunt
# Python's own images have PGO and LTO, and their standard library is not compiled: where nothing can be written, each start
# would do it, in memory, for half a second of CPU and 4 MiB that stay (measured).
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(test|idlelib|tkinter|turtledemo|ensurepip|site-packages)/' \
      "$(python -c 'import os; print(os.path.dirname(os.__file__))')"
ENV PATH=/opt/exeunt/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
CMD ["exeunt", "--help"]
