//! What a client says first: whether it is TLS, and whom it wants to talk to (SNI, RFC 6066).

use crate::name::normal;
use crate::{be16, byte};

/// The longest beginning of a stream that is looked at: a whole record, and a little.
pub const LONGEST: usize = 17 << 10;
const RECORD: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXT_SERVER_NAME: u16 = 0;

#[derive(Debug, PartialEq, Eq)]
pub enum Hello {
    /// Cannot be told yet.
    More,
    /// Something else than TLS.
    Other,
    /// TLS that names nobody, or not so that it could be understood.
    Nobody,
    Name(String),
}

/// Looks at the beginning of a stream.
pub fn look(data: &[u8]) -> Hello {
    match handshake(data) {
        Err(hello) => hello,
        Ok(body) => match server(&body) {
            Some(Some(name)) => Hello::Name(name),
            _ => Hello::Nobody,
        },
    }
}

/// The client's hello without its header, put together from the records that it is in.
fn handshake(data: &[u8]) -> Result<Vec<u8>, Hello> {
    let more = if data.len() >= LONGEST { Hello::Nobody } else { Hello::More };
    match (byte(data, 0), byte(data, 1)) {
        (None, _) | (Some(HANDSHAKE), None) => return Err(Hello::More),
        (Some(HANDSHAKE), Some(3)) => {}
        // SSL 2's form of the hello knows no names; some servers still take it.
        (Some(0x80..), _) => match (byte(data, 2), byte(data, 3)) {
            (Some(CLIENT_HELLO), Some(3)) => return Err(Hello::Nobody),
            (Some(CLIENT_HELLO), None) | (None, _) => return Err(Hello::More),
            _ => return Err(Hello::Other),
        },
        _ => return Err(Hello::Other),
    }
    let mut message = Vec::new();
    let mut rest = data;
    loop {
        if let (Some(kind), Some(high), Some(length)) =
            (byte(&message, 0), byte(&message, 1), be16(&message, 2))
        {
            let length = usize::from(length);
            if kind != CLIENT_HELLO || high != 0 || length > LONGEST {
                return Err(Hello::Nobody);
            }
            if let Some(body) = message.get(4..length.saturating_add(4)) {
                return Ok(body.to_vec());
            }
        }
        let Some((head, tail)) = rest.split_at_checked(RECORD) else { return Err(more) };
        let (Some(HANDSHAKE), Some(3), Some(length)) = (byte(head, 0), byte(head, 1), be16(head, 3)) else {
            return Err(Hello::Nobody);
        };
        let length = usize::from(length);
        if length == 0 || length > LONGEST {
            return Err(Hello::Nobody);
        }
        let there = tail.get(..length).unwrap_or(tail);
        message.extend_from_slice(there);
        rest = tail.get(length..).unwrap_or_default();
    }
}

/// Takes a vector with a length of one or two bytes before it.
fn vector<'a>(data: &mut &'a [u8], wide: bool) -> Option<&'a [u8]> {
    let (length, head) =
        if wide { (usize::from(be16(data, 0)?), 2) } else { (usize::from(byte(data, 0)?), 1) };
    let (vector, rest) = data.get(head..)?.split_at_checked(length)?;
    *data = rest;
    Some(vector)
}

/// The server's name in a hello. Outer `None`: it cannot be understood, or in more ways than one.
fn server(body: &[u8]) -> Option<Option<String>> {
    // Version and random number.
    let mut rest = body.get(34..)?;
    vector(&mut rest, false)?;
    vector(&mut rest, true)?;
    vector(&mut rest, false)?;
    if rest.is_empty() {
        return Some(None);
    }
    let mut extensions = vector(&mut rest, true)?;
    let mut found = None;
    while !extensions.is_empty() {
        let kind = be16(extensions, 0)?;
        extensions = extensions.get(2..)?;
        let mut content = vector(&mut extensions, true)?;
        if kind != EXT_SERVER_NAME {
            continue;
        }
        let mut list = vector(&mut content, true)?;
        let (kind, name) = (byte(list, 0)?, list.get(1..)?);
        list = name;
        let name = vector(&mut list, true)?;
        if kind != 0 || !list.is_empty() || !content.is_empty() || found.is_some() {
            return None;
        }
        found = Some(normal(name)?);
    }
    if rest.is_empty() { Some(found) } else { None }
}
