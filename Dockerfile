# The service alone: Python, the pinned packages, one user without privileges.
#   docker build -t lens-ship:0.1.0 .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /source
COPY image-requirements.txt ./
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# Everything that is installed or builds, by its hash. Nothing comes from elsewhere after this.
RUN python -m pip download --require-hashes --only-binary :all: --dest /wheels -r image-requirements.txt
ENV PIP_NO_INDEX=1 \
    PIP_FIND_LINKS=/wheels
COPY pyproject.toml README.md CHANGELOG.md CONTRIBUTING.md ./
COPY systemd systemd
COPY examples examples
COPY docs docs
COPY deploy deploy
COPY spooler spooler
COPY shipper shipper
# What builds and installs stays behind; pip is there only for a command of sqlite-utils.
RUN python -m pip wheel --no-deps --wheel-dir /wheels . \
 && python -m venv --without-pip /opt/lens-ship \
 && python -m pip --python /opt/lens-ship/bin/python install 'lens-ship[service]' \
 && python -m pip --python /opt/lens-ship/bin/python uninstall --yes pip

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/lens-ship /opt/lens-ship
ENV PATH=/opt/lens-ship/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Numbers, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
ENTRYPOINT ["lens-ship"]
CMD ["run"]
