"""The command `fedquit verify`: parses, makes one call, prints."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("receipt", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="receipts.pub of the federation")
@click.option("--kit", type=click.Path(path_type=Path), help="a kit, which has that key in it")
@click.option("--model", type=click.Path(path_type=Path), help="a model file: is it the one of the receipt?")
@click.option("--revoked", type=click.Path(path_type=Path), help="the federation's signed list of revoked keys")
@click.option(
    "--samples", type=click.Path(path_type=Path), metavar="FILE", help="samples, one per line: was it about these?"
)
@click.option("--salt", default="", metavar="HEX", help="of these samples, from `fedquit record KIT --json`")
@click.option("--json", "as_json", is_flag=True, help="print what the receipt says as JSON, and nothing else")
def verify(
    receipt: Path,
    key: Path | None,
    kit: Path | None,
    model: Path | None,
    revoked: Path | None,
    samples: Path | None,
    salt: str,
    as_json: bool,
) -> None:
    """Check a receipt offline: who signed it, that no byte was changed, that it answers the ask that it carries.

    Exits with 0 if it verifies, with 1 and the reason if it does not.
    """
    from fedquit.client.receipts.receipt_text import lines
    from fedquit.client.receipts.verify_receipt import verify as checked

    read = checked(receipt, key=key, kit=kit, model=model, revoked=revoked, samples=samples, salt=salt)
    if as_json:
        click.echo(json.dumps({"model": read.model, **read.predicate}, indent=1))
        return
    click.echo("\n".join(lines(read, model_checked=model is not None, samples_checked=samples is not None)))
