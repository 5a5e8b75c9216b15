FROM python:3.12-slim

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY fineserve_shapes fineserve_shapes
RUN pip install --no-cache-dir .
COPY locustfiles locustfiles

RUN useradd --create-home fineserve
USER fineserve
