//! What one request holds while it is unverified, and while it is answered.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::task::Poll;

use super::RequestLimits;
use super::totals::{Exhausted, Size};
use super::verified::{RouteShare, VerifiedReservation};
use super::waiting::{Held, Slot, Ticket};
use crate::client_network::ClientNetwork;

/// The part of [`RequestLimits`] that one request uses, released on drop.
pub(crate) struct Reservation<'a> {
    limits: &'a RequestLimits,
    is_stream: bool,
    slot: Option<Slot<'a>>,
    bytes: usize,
    listing: Listing,
}

/// A request's relation to the list of those that wait for their sender.
enum Listing {
    /// Not on the list, since it has not waited yet.
    Unlisted,
    Listed(Ticket),
    Displaced,
}

impl<'a> Reservation<'a> {
    pub(super) fn new(limits: &'a RequestLimits, is_stream: bool, slot: Option<Slot<'a>>) -> Self {
        Self {
            limits,
            is_stream,
            slot,
            bytes: 0,
            listing: Listing::Unlisted,
        }
    }

    /// Adds `bytes` that have arrived, from `holder`.
    ///
    /// # Errors
    /// When the request was displaced, or does not fit even alone.
    pub(crate) fn grow(&mut self, bytes: usize, holder: ClientNetwork) -> Result<(), Exhausted> {
        self.bytes += bytes;
        match &self.listing {
            // Small and not yet waited for: most requests end before they are listed.
            Listing::Unlisted if self.limits.bytes().size_of(self.bytes) == Size::Small => Ok(()),
            Listing::Unlisted => {
                self.list(holder);
                Ok(())
            }
            Listing::Displaced => Err(Exhausted),
            Listing::Listed(_) => self.update(),
        }
    }

    /// Awaits `future`, which waits for the sender. If it does not complete at once, the request is
    /// listed as one of `holder`. The caller pins it: taken by value, it would need its room twice.
    ///
    /// # Errors
    /// When the request is displaced meanwhile. The future may have made progress.
    pub(crate) async fn until_displaced<F: Future>(
        &mut self,
        holder: ClientNetwork,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Exhausted> {
        if let Some(output) = poll_once(future.as_mut()).await {
            return Ok(output);
        }
        if matches!(self.listing, Listing::Unlisted) {
            self.list(holder);
        }
        let Listing::Listed(ticket) = &self.listing else {
            return Err(Exhausted);
        };
        tokio::select! {
            biased;
            output = future => return Ok(output),
            () = ticket.displaced.notified() => {}
        }
        self.set_displaced();
        Err(Exhausted)
    }

    /// Moves the request to the verified ones of `route`.
    ///
    /// # Errors
    /// When it does not fit there.
    pub(crate) fn verified<'r>(
        &mut self,
        route: &'r RouteShare,
    ) -> Result<VerifiedReservation<'r>, Exhausted>
    where
        'a: 'r,
    {
        let bytes = self.bytes;
        self.release();
        let totals = self.limits.bytes();
        VerifiedReservation::new(&self.limits.verified, totals, route, bytes, self.is_stream)
    }

    /// Replaces what the request holds by a response of `bytes`.
    pub(crate) fn answering(&mut self, bytes: usize) {
        self.bytes = bytes;
        // A displaced request stays displaced; its response is tried once.
        let _ = self.update();
    }

    fn list(&mut self, holder: ClientNetwork) {
        let held = Held {
            bytes: self.bytes,
            is_stream: self.is_stream,
            has_slot: self.slot.is_some(),
        };
        let ticket = self.limits.waiting.list(holder, held, self.limits.room());
        self.listing = Listing::Listed(ticket);
    }

    fn update(&mut self) -> Result<(), Exhausted> {
        let Listing::Listed(ticket) = &self.listing else {
            return Ok(());
        };
        let room = self.limits.room();
        let updated = self.limits.waiting.update(ticket, self.bytes, room);
        if updated.is_err() {
            self.set_displaced();
        }
        updated
    }

    fn set_displaced(&mut self) {
        self.listing = Listing::Displaced;
        if let Some(slot) = &mut self.slot {
            slot.was_displaced = true;
        }
    }

    /// Gives back everything that is counted for the request.
    fn release(&mut self) {
        self.bytes = 0;
        if let Listing::Listed(ticket) = mem::replace(&mut self.listing, Listing::Unlisted)
            && !self.limits.waiting.remove(&ticket)
            && let Some(slot) = &mut self.slot
        {
            slot.was_displaced = true;
        }
        self.slot = None;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// Polls a future once, and returns its output if it is ready.
pub(super) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
