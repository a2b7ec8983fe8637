//! The steps of a request to a service that keeps answers: look, wait for someone
//! who asks already, ask, keep what comes, and fall back if nothing does.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::{
    backend::upstream::{Core, Table},
    cache::{
        answer::{self, Why},
        conditional,
        fill::{Fill, Tee},
        flight::{self, Leading, Role},
        freshness::{self, Use},
        kept::Kept,
        key::Place,
        outage::{finish, is_failure, is_outage},
        question::{Get, Question},
        store::{Charge, Generation},
        stored::{Head, Stored, Times},
    },
    request::{
        answer::{Fault, OURS},
        attempts::{self, Asked},
        body::Body,
        proxy::Client,
        rejection::Rejection,
        router::Destination,
    },
    sight::telling::Telling,
};

/// How old the answer kept for an emergency is at least when another replaces it.
const REPLACE_AFTER: Duration = Duration::from_secs(1);

/// A response whose body ends when its connection does, so that nobody can tell
/// whether it is complete. Marks it as an extension.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UntilClose;

/// What a request needs on its way to a backend.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) core: Rc<Core>,
    pub(crate) table: Rc<Table>,
    pub(crate) destination: Rc<Destination>,
    pub(crate) client: Rc<Client>,
    pub(crate) kept: Arc<Kept>,
}

/// Gets an answer for a request to a service with a fallback.
pub(crate) async fn run(
    way: Way,
    asked: Asked,
    telling: &mut Telling,
) -> Result<Response<Body>, Rejection> {
    let service = way.destination.service.name.as_str();
    match Question::of(service, &way.client, &asked) {
        Question::Get(get) if way.kept.purpose().serve_fresh => way.look(get, asked, telling).await,
        Question::Get(get) => {
            let forward = Forward::because("bypass");
            way.ask(get, asked, forward, telling).await
        }
        Question::Change(place) => way.change(&place, asked, telling).await,
        Question::Other => {
            let mut response = way.forward(asked, telling).await?;
            answer::forwarded(response.headers_mut(), "bypass", false);
            Ok(response)
        }
    }
}

/// Why and how a request goes to its backend.
#[derive(Debug)]
struct Forward {
    why: &'static str,
    /// What is kept, and asked about with validators of ours.
    validating: Option<Arc<Stored>>,
    /// Others wait for it.
    leading: Option<Leading>,
}

impl Forward {
    fn because(why: &'static str) -> Self {
        Self {
            why,
            validating: None,
            leading: None,
        }
    }
}

impl Way {
    fn forward(
        &self,
        asked: Asked,
        telling: &mut Telling,
    ) -> impl Future<Output = Result<Response<Body>, Rejection>> {
        attempts::run(
            &self.core,
            &self.table,
            &self.destination,
            &self.client,
            asked,
            telling,
        )
    }

    /// Serves what is fresh, and asks for the rest.
    async fn look(
        &self,
        get: Box<Get>,
        mut asked: Asked,
        telling: &mut Telling,
    ) -> Result<Response<Body>, Rejection> {
        let found = self.find(&get);
        if let Some(stored) = &found {
            match stored
                .head
                .terms
                .use_for(&get.said, stored.head.age(Instant::now()))
            {
                Use::Ask => {}
                Use::Fresh => {
                    self.kept.counts.hit();
                    return Ok(answer::reply(stored, &get, Why::Hit));
                }
                Use::Stale => {
                    self.kept.counts.stale();
                    return Ok(answer::reply(stored, &get, Why::Hit));
                }
                Use::StaleAndAsk => {
                    self.kept.counts.stale();
                    let response = answer::reply(stored, &get, Why::Asking);
                    if get.may_validate() {
                        self.ask_beside(get, asked, stored.clone());
                    }
                    return Ok(response);
                }
            }
        }
        if get.said.only_if_cached {
            self.kept.counts.missed();
            return Err(Fault::OnlyIfCached.into());
        }
        let mut forward = Forward::because(match &found {
            _ if get.said.no_cache => "request",
            Some(_) => "stale",
            None => "miss",
        });
        if get.is_plain() && !get.said.no_cache {
            match self.core.flights.join(&get.key) {
                Role::Alone => {}
                Role::Lead(leading) => forward.leading = Some(leading),
                Role::Follow(done) => {
                    flight::follow(done).await;
                    if let Some(stored) = self.find(&get)
                        && let age = stored.head.age(Instant::now())
                        && stored.head.terms.use_for(&get.said, age) == Use::Fresh
                    {
                        self.kept.counts.hit();
                        return Ok(answer::reply(&stored, &get, Why::Collapsed));
                    }
                }
            }
        }
        self.kept.counts.missed();
        forward.validating = validate(found, &get, &mut asked);
        self.ask(get, asked, forward, telling).await
    }

    /// Asks for a newer answer while the client has the old one. One request for
    /// each key at a time.
    fn ask_beside(&self, get: Box<Get>, mut asked: Asked, stored: Arc<Stored>) {
        let Role::Lead(leading) = self.core.flights.join(&get.key) else {
            return;
        };
        let forward = Forward {
            why: "stale",
            validating: validate(Some(stored), &get, &mut asked),
            leading: Some(leading),
        };
        let way = self.clone();
        tokio::task::spawn_local(async move {
            if let Ok(response) = way.ask(get, asked, forward, &mut Telling::nothing()).await {
                let mut body = response.into_body();
                while let Some(Ok(_)) = body.frame().await {}
            }
        });
    }

    /// An answer that this client may have, fresh or not.
    fn find(&self, get: &Get) -> Option<Arc<Stored>> {
        let found = self.kept.store.find(&get.key, &get.headers);
        found.filter(|stored| get.may_have(&stored.head.terms))
    }

    /// Asks the backend, and falls back if that fails.
    async fn ask(
        &self,
        get: Box<Get>,
        asked: Asked,
        forward: Forward,
        telling: &mut Telling,
    ) -> Result<Response<Body>, Rejection> {
        let generation = self.kept.store.generation(&get.key);
        let started = Instant::now();
        match self.forward(asked, telling).await {
            Ok(response) => {
                let times = Times::since(started);
                let (answer, ours) = self.answered(&get, response, forward, generation, times);
                if ours {
                    telling.ours();
                }
                Ok(answer)
            }
            Err(rejection) if is_outage(&rejection) => {
                let instead = self.instead(&get, None);
                let Some(mut response) = instead else {
                    return Err(rejection);
                };
                let refusal = rejection.answer(false);
                let reason = refusal.headers().get(OURS).and_then(|v| v.to_str().ok());
                let stale = is_stale(&response.1);
                answer::mark(&mut response.0, reason.unwrap_or_default(), stale);
                telling.ours();
                Ok(response.0)
            }
            Err(rejection) => Err(rejection),
        }
    }

    /// A kept answer in an emergency, if it may be used.
    fn instead(
        &self,
        get: &Get,
        status: Option<StatusCode>,
    ) -> Option<(Response<Body>, Arc<Stored>)> {
        let limit = self.kept.purpose().stale_if_error;
        let helps = |stored: &Arc<Stored>| {
            let age = stored.head.age(Instant::now());
            stored.head.status.as_u16() < 500 && stored.head.terms.helps(&get.said, age, limit)
        };
        let Some(stored) = self.find(get).filter(helps) else {
            if !self.kept.purpose().serve_fresh {
                self.kept.counts.missed();
            }
            return None;
        };
        match is_stale(&stored) {
            true => self.kept.counts.stale(),
            false => self.kept.counts.hit(),
        }
        let response = answer::reply(&stored, get, Why::Emergency(status));
        Some((response, stored))
    }

    /// What a client gets of a backend's response, and whether it is a kept one in
    /// an emergency.
    fn answered(
        &self,
        get: &Get,
        mut response: Response<Body>,
        forward: Forward,
        generation: Generation,
        times: Times,
    ) -> (Response<Body>, bool) {
        let status = response.status();
        if is_failure(status)
            && let Some((mut instead, stored)) = self.instead(get, Some(status))
        {
            let reason = format!("reason=status_{}", status.as_u16());
            answer::mark(&mut instead, &reason, is_stale(&stored));
            finish(response.into_body());
            return (instead, true);
        }
        if status == StatusCode::NOT_MODIFIED {
            let unchanged = response.headers();
            if let Some(stored) = forward.validating {
                let renewed = self.renew(get, &stored, unchanged, generation, times);
                return (answer::reply(&renewed, get, Why::Validated), false);
            }
            let confirmed = self.find(get);
            if let Some(stored) =
                confirmed.filter(|stored| conditional::confirms(unchanged, &stored.head.headers))
            {
                self.renew(get, &stored, unchanged, generation, times);
            }
        }
        let fill = self.fill(get, &response, forward.leading, generation, times);
        answer::forwarded(response.headers_mut(), forward.why, fill.is_some());
        let answer = match fill {
            Some(fill) => response.map(|body| Tee::body(body, fill)),
            None => response,
        };
        (answer, false)
    }

    fn fill(
        &self,
        get: &Get,
        response: &Response<Body>,
        leading: Option<Leading>,
        generation: Generation,
        times: Times,
    ) -> Option<Fill> {
        if self.has_one_as_good(get, response.status(), times.came) {
            return None;
        }
        let complete = response.extensions().get::<UntilClose>().is_none();
        let answer = (response.status(), response.headers());
        let head = (!get.head && complete)
            .then(|| Head::of(&self.kept, &get.headers, answer, times))
            .flatten();
        let key = get.key.clone();
        let promised = response.body().size_hint().exact();
        let fill =
            head.and_then(|head| Fill::new(&self.kept, key, generation, head, promised, leading));
        if fill.is_none() && self.kept.purpose().serve_fresh {
            self.core.flights.pass(&get.key);
        }
        fill
    }

    /// For an emergency, an answer of the second before is as good as this one, and
    /// saves copying every answer of a key that is asked for all the time.
    fn has_one_as_good(&self, get: &Get, status: StatusCode, now: Instant) -> bool {
        let fits = |stored: Arc<Stored>| {
            stored.head.status == status && now < stored.head.came + REPLACE_AFTER
        };
        !self.kept.purpose().serve_fresh && self.find(get).is_some_and(fits)
    }

    /// Keeps an answer for longer, as its backend says that it still holds.
    fn renew(
        &self,
        get: &Get,
        stored: &Arc<Stored>,
        unchanged: &HeaderMap,
        generation: Generation,
        times: Times,
    ) -> Arc<Stored> {
        let head = stored.head.renewed(unchanged, times);
        let said = freshness::directives(&head.headers);
        let kept = &self.kept;
        if said.no_store || said.private {
            kept.store.invalidate(&get.key);
            return stored.clone();
        }
        let Some(charge) = Charge::of(&kept.store, head.weight()) else {
            return stored.clone();
        };
        let renewed = Arc::new(Stored {
            body: stored.body.clone(),
            kept: kept.clone(),
            _charge: charge,
            head,
        });
        if kept
            .store
            .insert(get.key.clone(), renewed.clone(), generation)
        {
            kept.counts.stored();
        }
        renewed
    }

    /// Passes on a request whose success makes kept answers wrong: those of its own
    /// URL, and of what its answer names on the same host (RFC 9111 §4.4).
    async fn change(
        &self,
        place: &Place,
        asked: Asked,
        telling: &mut Telling,
    ) -> Result<Response<Body>, Rejection> {
        let service = self.destination.service.name.clone();
        let query = asked.parts.uri.query().map(str::to_owned);
        let mut response = self.forward(asked, telling).await?;
        if response.status().is_success() || response.status().is_redirection() {
            let store = &self.kept.store;
            store.invalidate(&place.key(service.as_str(), query.as_deref()));
            for name in [header::LOCATION, header::CONTENT_LOCATION] {
                let named = response.headers().get(name);
                let named = named.and_then(|value| value.to_str().ok());
                if let Some(key) = named.and_then(|named| place.key_of(service.as_str(), named)) {
                    store.invalidate(&key);
                }
            }
        }
        answer::forwarded(response.headers_mut(), "method", false);
        Ok(response)
    }
}

/// Makes a request ask whether what is kept still holds, where that can be.
fn validate(found: Option<Arc<Stored>>, get: &Get, asked: &mut Asked) -> Option<Arc<Stored>> {
    let stored = found
        .filter(|stored| get.may_validate() && conditional::has_validator(&stored.head.headers))?;
    conditional::ask_about(&stored.head.headers, &mut asked.parts.headers);
    Some(stored)
}

fn is_stale(stored: &Stored) -> bool {
    stored.head.age(Instant::now()) >= stored.head.terms.lifetime
}
