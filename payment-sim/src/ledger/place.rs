//! Ids say where their effect is, so that none has to be looked up.

/// The place of an effect in the ledger, from 0; the first ten digits of its id.
pub(super) type Place = u32;

/// The salt makes ids of one ledger differ from those of another.
pub(super) fn id(prefix: &str, place: Place, salt: u32) -> Box<str> {
    format!("{prefix}_{place:010x}{salt:08x}").into()
}

/// Where an effect with this id is, if it is anywhere.
pub(super) fn place_of(id: &str) -> Option<Place> {
    let (_, digits) = id.split_once('_')?;
    let place = digits.get(..10)?;
    let is_hex = place.bytes().all(|byte| byte.is_ascii_hexdigit());
    Place::from_str_radix(place, 16).ok().filter(|_| is_hex)
}
