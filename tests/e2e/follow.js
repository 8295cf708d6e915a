// Follows streams as a page would, with nothing but what EventSource gives, and tells what it saw.
globalThis.follow = function (EventSource, streams, types, tell) {
  for (const [name, { url, last }] of Object.entries(streams)) {
    const seen = [];
    let errors = 0;
    const source = new EventSource(url);
    const report = () => tell({ name, seen, errors, state: source.readyState });
    source.onerror = () => {
      errors += 1;
      // It came to the end by itself: it was told that there is nothing more.
      if (source.readyState === 2) report();
    };
    for (const type of types) {
      source.addEventListener(type, (event) => {
        seen.push([event.lastEventId, event.type, event.data]);
        tell({ name, count: seen.length });
        if (seen.filter(([, kind]) => kind === last).length === 2) {
          source.close();
          report();
        }
      });
    }
  }
};
