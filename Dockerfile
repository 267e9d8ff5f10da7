# The playground and the API on a CPU: docker build -t retrodict . && docker run --rm -p 127.0.0.1:8000:8000 retrodict
FROM python:3.12-slim
RUN useradd --create-home retrodict
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
 && pip install --no-cache-dir -c constraints.txt '.[serve,judge]'
USER retrodict
ENV HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz')"
CMD ["retrodict", "serve", "--host", "0.0.0.0"]
