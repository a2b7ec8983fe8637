//! Where a request goes by a plan: pure arithmetic on shares, worked out once
//! when the plan arrives.
//!
//! A request has a place in the order of the whole demand, 0 up to 1 (see
//! [`breaker_core::shed`]). The regions own consecutive bands of that order, the
//! nearest first, so the most important requests stay nearest, others move
//! outward, and what lies beyond all bands is shed. Requests that their region
//! refuses (the plan is a moment old, or this agent sees more than the fleet)
//! share out the other regions' headroom in the same way, so that no region gets
//! more than fits there, whoever is cut off.

/// What rounding may take from a sum of shares that is meant to be 1.
const ROUNDING: f64 = 1e-9;

/// One origin's plan. One entry for each region of its order.
#[derive(Debug, Clone, PartialEq)]
pub struct Bands(Box<[Band]>);

/// One region's part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    /// Share of the origin's demand that goes there, 0 to 1.
    pub share: f64,
    /// Further share of it that fits there, 0 to 1.
    pub headroom: f64,
    /// Where its band begins and ends; one that reaches 1 has no end.
    from: f64,
    to: f64,
}

/// A request's region by the plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    /// Its place in the region order.
    pub region: usize,
    /// Where it stands in that region's band, [0, 1): 0 is refused last.
    pub within: f64,
}

impl Bands {
    /// From each region's share and headroom, in the region order.
    pub fn new(regions: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut from = 0.0;
        let band = |(share, headroom): (f64, f64)| {
            let band = Band {
                share,
                headroom,
                from,
                to: endless(from + share),
            };
            from += share;
            band
        };
        Self(regions.into_iter().map(band).collect())
    }

    /// What a plan still says when nobody stands by it any more: `home` takes
    /// everything, and the others no more than was theirs or would have fit.
    pub fn stale(&self, home: usize) -> Self {
        let part = |(at, band): (usize, &Band)| match at == home {
            true => (1.0, 0.0),
            false => (0.0, (band.share + band.headroom).min(1.0)),
        };
        Self::new(self.0.iter().enumerate().map(part))
    }

    /// Each region's part, in the region order.
    pub fn regions(&self) -> &[Band] {
        &self.0
    }

    /// Share of the demand that is shed, 0 to 1.
    pub fn shed(&self) -> f64 {
        let admitted: f64 = self.0.iter().map(|band| band.share).sum();
        let shed = 1.0 - admitted;
        if shed > ROUNDING { shed } else { 0.0 }
    }

    /// The region that takes everything, if one does.
    pub fn whole(&self) -> Option<usize> {
        let whole = |band: &Band| band.from <= 0.0 && band.to.is_infinite() && band.share > 0.0;
        self.0.iter().position(whole)
    }

    /// Where the request at `x` of the whole demand goes; `None`: it is shed.
    pub fn place(&self, x: f64) -> Option<Placed> {
        let region = self.0.iter().position(|band| x < band.to)?;
        let band = self.0[region];
        Some(Placed {
            region,
            within: ((x - band.from) / band.share).clamp(0.0, 1.0),
        })
    }

    /// Where a request goes that its region refused; `None`: nowhere.
    ///
    /// `within` is where it stands among what the region refuses, [0, 1): 0 is
    /// refused last. `refused` is the share of its requests that a region
    /// refuses, 0 to 1; only one that refuses none has room for others.
    pub fn alternate(&self, placed: Placed, refused: impl Fn(usize) -> f64) -> Option<usize> {
        let mass = |at: usize| self.0[at].share * refused(at);
        // Regions in front that refuse, too, have the first claim.
        let before: f64 = (0..placed.region).map(mass).sum();
        let rank = before + placed.within * mass(placed.region);
        let mut to = 0.0;
        let takes = |(at, band): &(usize, &Band)| {
            *at != placed.region && band.headroom > 0.0 && refused(*at) <= 0.0
        };
        let mut others = self.0.iter().enumerate().filter(takes);
        let found = others.find(|(_, band)| {
            to += band.headroom;
            rank < endless(to)
        });
        found.map(|(at, _)| at)
    }
}

fn endless(to: f64) -> f64 {
    match to >= 1.0 - ROUNDING {
        true => f64::INFINITY,
        false => to,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUESTS: usize = 1000;

    /// Places of requests that spread evenly.
    fn places() -> impl Iterator<Item = f64> {
        (0..REQUESTS).map(|n| (n as f64 + 0.5) / REQUESTS as f64)
    }

    /// Where requests end up when each region refuses so much of its own; the
    /// last count is of those that go nowhere.
    fn spread(bands: &Bands, refused: &[f64]) -> Vec<usize> {
        let regions = bands.regions().len();
        let mut got = vec![0; regions + 1];
        for x in places() {
            let placed = bands.place(x);
            let to = placed.and_then(|placed| {
                // Each band refuses its own last ones.
                let admitted = 1.0 - refused[placed.region];
                if placed.within < admitted {
                    return Some(placed.region);
                }
                let within = (placed.within - admitted) / refused[placed.region];
                bands.alternate(Placed { within, ..placed }, |at| refused[at])
            });
            got[to.unwrap_or(regions)] += 1;
        }
        got
    }

    #[test]
    fn regions_own_consecutive_bands_and_the_rest_is_shed() {
        let bands = Bands::new([(0.5, 0.0), (0.0, 0.0), (0.3, 0.0)]);
        let region = |x| bands.place(x).map(|placed| placed.region);
        assert_eq!([region(0.0), region(0.499)], [Some(0), Some(0)]);
        assert_eq!([region(0.5), region(0.799)], [Some(2), Some(2)]);
        assert_eq!([region(0.8), region(1.0)], [None, None]);
        assert!((bands.shed() - 0.2).abs() < 1e-12);
    }

    #[test]
    fn shares_that_add_up_to_one_shed_nobody_whatever_rounding_does() {
        let bands = Bands::new([(0.1, 0.0), (0.2, 0.0), (0.7, 0.0)]);
        assert_eq!(bands.place(1.0).map(|placed| placed.region), Some(2));
        assert_eq!((bands.shed(), bands.whole()), (0.0, None));
        let bands = Bands::new([(0.0, 0.0), (1.0, 0.0)]);
        assert_eq!(bands.whole(), Some(1));
        assert_eq!(bands.place(0.0).map(|placed| placed.region), Some(1));
    }

    #[test]
    fn a_region_that_refuses_everything_is_replaced_as_far_as_others_have_room() {
        let bands = Bands::new([(1.0, 0.0), (0.0, 0.3), (0.0, 0.2)]);
        assert_eq!(spread(&bands, &[1.0, 0.0, 0.0]), [0, 300, 200, 500]);
        assert_eq!(spread(&bands, &[0.4, 0.0, 0.0]), [600, 300, 100, 0]);
    }

    #[test]
    fn two_that_refuse_share_the_third_ones_room() {
        let bands = Bands::new([(0.5, 0.0), (0.3, 0.5), (0.2, 0.4)]);
        assert_eq!(spread(&bands, &[1.0, 1.0, 0.0]), [0, 0, 600, 400]);
    }

    #[test]
    fn of_a_stale_plan_the_shares_are_what_others_take_at_most() {
        let bands = Bands::new([(0.6, 0.1), (0.2, 0.1), (0.1, 0.0)]).stale(0);
        assert_eq!(spread(&bands, &[0.0, 0.0, 0.0]), [1000, 0, 0, 0]);
        assert_eq!(spread(&bands, &[1.0, 0.0, 0.0]), [0, 300, 100, 600]);
        let drained = Bands::new([(0.0, 0.0), (0.9, 0.1)]).stale(1);
        assert_eq!(spread(&drained, &[0.0, 0.0]), [0, 1000, 0]);
    }

    proptest! {
        #[test]
        fn no_region_gets_more_than_its_share_and_headroom_whoever_refuses(
            regions in prop::collection::vec((0.0..1.0f64, 0.0..0.5f64, 0..3u8, 0.0..1.0f64), 1..6),
        ) {
            let total: f64 = regions.iter().map(|(share, ..)| share).sum();
            let bands = Bands::new(regions.iter().map(|(share, headroom, ..)| (share / total.max(1.0), *headroom)));
            let refused: Vec<f64> = regions
                .iter()
                .map(|(.., kind, part)| match kind { 0 => 0.0, 1 => 1.0, _ => *part })
                .collect();
            let got = spread(&bands, &refused);
            prop_assert_eq!(got.iter().sum::<usize>(), REQUESTS);
            // Each edge of a band, and each region's, rounds by a request.
            let slack = 2.0 + 2.0 * regions.len() as f64;
            let mut moved = 0.0;
            let mut room = 0.0;
            for (at, band) in bands.regions().iter().enumerate() {
                let own = band.share * (1.0 - refused[at]);
                let free = if refused[at] > 0.0 { 0.0 } else { band.headroom };
                let most = (own + free) * REQUESTS as f64;
                prop_assert!(got[at] as f64 <= most + slack, "{at}: {got:?}");
                moved += got[at] as f64 - own * REQUESTS as f64;
                room += free;
            }
            // What room there is, is used.
            let wanting = bands.regions().iter().zip(&refused).map(|(b, r)| b.share * r);
            let fits = wanting.sum::<f64>().min(room) * REQUESTS as f64;
            prop_assert!(moved >= fits - slack, "moved {moved} of {fits}: {got:?}");
        }

        #[test]
        fn a_request_of_higher_rank_is_never_shed_while_a_lower_one_is_placed(
            shares in prop::collection::vec(0.0..0.4f64, 1..5),
            (high, low) in (0.0..1.0f64, 0.0..1.0f64),
        ) {
            let bands = Bands::new(shares.iter().map(|share| (*share, 0.0)));
            let (high, low) = (high.min(low), high.max(low));
            let nearest = |x| bands.place(x).map_or(usize::MAX, |placed| placed.region);
            prop_assert!(nearest(high) <= nearest(low));
        }
    }
}
