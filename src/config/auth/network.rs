//! Networks in CIDR notation.

use std::fmt;
use std::net::IpAddr;

/// An address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_len: u8,
}

impl Network {
    /// `10.0.0.0/8`, `fd00::/8`, or one address. The error says what is expected.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("\"{text}\" is no network; write \"all\", an address, or a network such as \"10.0.0.0/8\" or \"fd00::/8\"")
        };
        let (address, prefix_len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let prefix_len = match prefix_len {
            None => n_bits(address),
            Some(len) => len.parse().ok().filter(|len| *len <= n_bits(address)).ok_or_else(expected)?,
        };
        let network = Self { address, prefix_len };
        let first = network.first();
        if first != address {
            return Err(format!("\"{text}\" has bits set behind its prefix; the network is \"{first}/{prefix_len}\""));
        }
        Ok(network)
    }

    /// An IPv4 address that came over an IPv6 socket counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                bits(self.address) == bits(address.to_canonical()) & self.mask()
            }
            _ => false,
        }
    }

    pub(super) fn covers(&self, other: &Self) -> bool {
        self.prefix_len <= other.prefix_len && self.contains(other.address)
    }

    pub(super) fn is_loopback(&self) -> bool {
        // 127.0.0.0/8 is loopback as a whole, of IPv6 only one address.
        self.address.is_loopback() && (self.prefix_len >= 8 && self.address.is_ipv4() || self.prefix_len == 128)
    }

    fn first(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(bits(self.address) & self.mask()).unwrap_or_default().into()),
            IpAddr::V6(_) => IpAddr::V6((bits(self.address) & self.mask()).into()),
        }
    }

    fn mask(&self) -> u128 {
        let len = u32::from(n_bits(self.address));
        let ones = u128::MAX.checked_shr(128 - len).unwrap_or(0);
        let host_bits = len - u32::from(self.prefix_len);
        ones & u128::MAX.checked_shl(host_bits).unwrap_or(0)
    }
}

fn n_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn which_addresses_are_in() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "192.0.2.1", false),
            ("::/0", "2001:db8::1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("192.0.2.128/25", "::ffff:192.0.2.129", true),
            ("2001:db8::/33", "2001:db8:8000::", false),
        ];
        for (range, address, expected) in cases {
            assert_eq!(network(range).contains(address.parse().expect("an address")), expected, "{address} in {range}");
        }
    }

    #[test]
    fn what_is_no_network_is_said() {
        for wrong in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129", "host", "10.0.0/8"] {
            assert!(Network::parse(wrong).is_err_and(|error| error.contains("is no network")), "{wrong}");
        }
        assert_eq!(Network::parse("10.1.2.3/8").map_err(|error| error.contains("the network is \"10.0.0.0/8\"")), Err(true));
    }

    #[test]
    fn wider_networks_cover_narrower_ones() {
        assert!(network("10.0.0.0/8").covers(&network("10.1.0.0/16")) && network("::/0").covers(&network("::1")));
        assert!(!network("10.1.0.0/16").covers(&network("10.0.0.0/8")) && !network("0.0.0.0/0").covers(&network("::1")));
        assert!(network("127.0.0.0/8").is_loopback() && network("::1").is_loopback());
        assert!(!network("0.0.0.0/0").is_loopback() && !network("10.0.0.1").is_loopback());
    }
}
