//! `explain`: what would become of a request, and why.

use std::io::{self, IsTerminal, Read, Write};

use anyhow::{Context, Result, anyhow, bail};
use zeroize::Zeroizing;

use super::args::Explain;
use super::operator::Operator;
use super::output::{self, BAD, GOOD, Output, QUIET, STRONG};
use crate::access::address::ClientAddress;
use crate::access::secret;
use crate::app;
use crate::keyring::explain::{BearerSecret, Credential, Explanation, Question};

pub async fn explain(operator: &Operator, asked: Explain, output: Output) -> Result<()> {
    let credential = match asked.key {
        Some(id) => Credential::Key(id),
        None => Credential::Secret(read_secret()?),
    };
    let question = Question { method: asked.method, url: asked.url, from: ClientAddress::of(asked.from), credential };
    let config = &operator.config;
    let gate = |index| app::gate_of(config, &config.limits, index);
    let upstreams: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    operator.with_keyring(async |keyring| output.answer(&keyring.explain(&question, gate, &upstreams).await?, write)).await
}

/// One line of standard input, which must not be a terminal: that would show the secret.
fn read_secret() -> Result<BearerSecret> {
    if io::stdin().is_terminal() {
        bail!("a secret that is typed here stands on the screen: send it by a file or a pipe, as in `... --secret-stdin < FILE`");
    }
    // Room for the longest and then some: growing would leave copies behind that nobody wipes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * secret::LONGEST));
    io::stdin().take(bytes.capacity() as u64).read_to_end(&mut bytes).context("read the secret from standard input")?;
    let secret = bytes.trim_ascii();
    if secret.is_empty() {
        bail!("standard input is empty: send the secret there, as in `... --secret-stdin < FILE`");
    }
    BearerSecret::new(secret).map_err(|problem| anyhow!(problem))
}

fn write(explanation: &Explanation, out: &mut dyn Write) -> io::Result<()> {
    let Explanation { decision, status, detail, method, url, .. } = explanation;
    match status {
        None => writeln!(out, "{GOOD}{STRONG}{decision}{STRONG:#}{GOOD:#}  {method} {}", output::plain(url))?,
        Some(status) => writeln!(out, "{BAD}{STRONG}{status} {decision}{STRONG:#}{BAD:#}  {method} {}", output::plain(url))?,
    }
    writeln!(out, "{}\n", output::plain(detail))?;
    for step in &explanation.steps {
        let (mark, style) = if step.met { ('✓', GOOD) } else { ('✗', BAD) };
        writeln!(out, "{style}{mark}{style:#} {QUIET}{:15}{QUIET:#} {}", step.rule, output::plain(&step.detail))?;
    }
    Ok(())
}
