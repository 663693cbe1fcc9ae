//! Where phones reach a server and its mirrors, and the lines that tell them.

use std::fmt;

/// Longest URL that we take, in bytes.
const MAX_URL: usize = 512;

/// An `http` or `https` URL under which files lie, with the slash at its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl(String);

/// Why a text is no such URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address that files can lie under: {reason}; expected https://HOST/PATH/")]
pub struct BaseUrlError {
    text: String,
    reason: &'static str,
}

impl BaseUrl {
    /// Checks a URL; the slash at its end may be missing.
    ///
    /// # Errors
    /// [`BaseUrlError`] for another scheme, no host, a query, and characters that would end the URL in a header line or
    /// in a phone's parser.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        let failed = |reason| BaseUrlError { text: text.chars().take(80).collect(), reason };
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let rest = rest.ok_or_else(|| failed("it starts with neither https:// nor http://"))?;
        if text.len() > MAX_URL {
            return Err(failed("it is over 512 bytes long"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~:/[]%+".contains(c);
        if !text.chars().all(allowed) {
            return Err(failed("only letters, digits and - . _ ~ : / [ ] % + may be in it"));
        }
        if rest.starts_with('/') || rest.starts_with(':') || rest.is_empty() {
            return Err(failed("it has no host"));
        }
        let end = if text.ends_with('/') { "" } else { "/" };
        Ok(Self(format!("{text}{end}")))
    }

    /// The URL, with the slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `https`.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where phones reach this server, and where else the repository's files are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// This server as phones see it; none if nobody said.
    pub public: Option<BaseUrl>,
    /// Repositories (what `/repo/` is here), the preferred one first; this server's own is among them if it is to be
    /// anywhere but at the end.
    pub mirrors: Vec<BaseUrl>,
}

impl Site {
    /// This server's own `/repo/`, if it is known.
    pub fn own_repository(&self) -> Option<BaseUrl> {
        self.public.as_ref().map(|public| BaseUrl(format!("{public}repo/")))
    }

    /// All repositories in the order of preference, with this server's own at the end unless it is named before.
    ///
    /// The order is the operator's and the same for everybody who asks.
    pub fn repositories(&self) -> Vec<BaseUrl> {
        let mut all = self.mirrors.clone();
        all.extend(self.own_repository().filter(|own| !self.mirrors.contains(own)));
        all
    }

    /// The values of the `Link` fields for a target, one for each repository of the scheme: the field is sent once for
    /// each value.
    ///
    /// # Source
    /// RFC 6249, section 3; `rel=duplicate` without quotes and before `pri`, since LineageOS's updater matches
    /// `<(.+)>\s*;\s*rel=duplicate(?:.*pri=([0-9]+).*|.*)?` against the whole value
    /// (`HttpURLConnectionClient.java`).
    pub fn links(&self, path: &str, https: bool) -> Vec<String> {
        let same = self.repositories().into_iter().filter(|base| base.is_https() == https);
        same.zip(1..).map(|(base, priority)| format!("<{base}targets/{path}>; rel=duplicate; pri={priority}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> BaseUrl {
        BaseUrl::parse(text).unwrap()
    }

    #[test]
    fn a_base_has_a_scheme_a_host_and_nothing_that_ends_it() {
        assert_eq!(url("https://a.example").as_str(), "https://a.example/");
        assert_eq!(url("http://[::1]:8080/x/").as_str(), "http://[::1]:8080/x/");
        for text in
            ["", "a.example", "ftp://a", "https://", "https:///x", "https://a b", "https://a>", "https://a/?q=1"]
        {
            assert!(BaseUrl::parse(text).is_err(), "{text}");
        }
        assert!(BaseUrl::parse(&format!("https://{}", "a".repeat(600))).is_err());
    }

    #[test]
    fn links_go_in_the_operators_order_and_only_to_the_same_scheme() {
        let site = Site {
            public: Some(url("https://ota.example/x")),
            mirrors: vec![url("https://m1.example/repo"), url("http://abc.onion/repo"), url("https://m2.example/repo")],
        };

        let links = site.links("a/b/c/d.zip", true);

        assert_eq!(
            links,
            [
                "<https://m1.example/repo/targets/a/b/c/d.zip>; rel=duplicate; pri=1",
                "<https://m2.example/repo/targets/a/b/c/d.zip>; rel=duplicate; pri=2",
                "<https://ota.example/x/repo/targets/a/b/c/d.zip>; rel=duplicate; pri=3",
            ]
        );
    }

    #[test]
    fn our_own_repository_may_come_first() {
        let site = Site {
            public: Some(url("https://ota.example")),
            mirrors: vec![url("https://ota.example/repo/"), url("https://m1.example/repo")],
        };

        assert_eq!(site.repositories(), [url("https://ota.example/repo"), url("https://m1.example/repo")]);
    }
}
