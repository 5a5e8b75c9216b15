# The whole image has the compiler that the slim one lacks.
FROM python:3.12 AS wheel
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY fineserve_shapes fineserve_shapes
COPY locustfiles locustfiles
COPY datasets datasets
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
WORKDIR /app
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && rm -r /wheels
COPY locustfiles locustfiles
COPY datasets datasets

RUN useradd --create-home fineserve
USER fineserve
