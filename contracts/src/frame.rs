//! What the `live:{s}` channels carry: the positions that just became current.
//!
//! `version u8 | epoch u64 | number u64 | position … | lags …`, big-endian, each position 64 bytes
//! as in [`crate::position`], and behind them when each was received ([`crate::received`]). The
//! numbers of one epoch have no gap: a reader that misses one, or sees
//! the epoch change, has lost something and loads the shard's current positions again. A frame
//! without positions is a heartbeat; it repeats the last number.

use crate::{
    position::{DecodeError, POSITION_LEN},
    received::{self, Received},
};

/// The version that this build writes; it reads no other.
pub const VERSION: u8 = 1;
/// Bytes before the first position.
pub const HEADER_LEN: usize = 17;

/// Where a frame stands in its shard's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameId {
    /// New whenever the `live` Redis has lost its data.
    pub epoch: u64,
    /// 1, 2, 3 … within the epoch.
    pub number: u64,
}

/// Splits a frame into its id and its positions, which are decoded as they are asked for. `now_ms`
/// is the reader's clock, for positions of which the frame does not say when they were received.
pub fn decode(
    bytes: &[u8],
    now_ms: i64,
) -> Result<(FrameId, impl ExactSizeIterator<Item = Result<Received, DecodeError>>), DecodeError> {
    let Some((header, positions)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(DecodeError::Length(bytes.len()));
    };
    if header[0] != VERSION {
        return Err(DecodeError::Version(header[0]));
    }
    if !positions.len().is_multiple_of(POSITION_LEN) {
        return Err(DecodeError::Length(bytes.len()));
    }
    let number = |at: usize| {
        let mut out = [0; 8];
        out.copy_from_slice(&header[at..at + 8]);
        u64::from_be_bytes(out)
    };
    let id = FrameId { epoch: number(1), number: number(9) };
    Ok((id, received::decode(positions, now_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_has_an_id_and_no_positions() {
        let mut bytes = vec![VERSION];
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend(9_u64.to_be_bytes());
        let (id, positions) = decode(&bytes, 0).unwrap();
        assert_eq!(id, FrameId { epoch: 7, number: 9 });
        assert_eq!(positions.len(), 0);
    }

    #[test]
    fn broken_frames_are_refused() {
        assert_eq!(decode(&[], 0).err(), Some(DecodeError::Length(0)));
        assert_eq!(decode(&[9; HEADER_LEN], 0).err(), Some(DecodeError::Version(9)));
        let cut = [VERSION; HEADER_LEN + POSITION_LEN - 1];
        assert_eq!(decode(&cut, 0).err(), Some(DecodeError::Length(cut.len())));
    }
}
