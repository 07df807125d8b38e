// The table can be ordered by any column and filtered by name. Without scripts it stands as
// it was ranked.
const table = document.querySelector('#tensors');
const body = table.tBodies[0];
const rows = [...body.rows];
const heads = [...table.tHead.rows[0].cells];
const value = (row, at) => row.cells[at].dataset.v ?? row.cells[at].textContent;
heads.forEach((head, at) => {
  if (!head.dataset.kind || !head.textContent.trim()) return;
  const button = document.createElement('button');
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener('click', () => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const number = head.dataset.kind === 'number';
    const compare = (a, b) => {
      const [x, y] = [value(a, at), value(b, at)];
      if (!number) return x.localeCompare(y, 'en', { numeric: true });
      // What has no figure stays at the end, whichever way round.
      if (x === '' || y === '') return ((x === '') - (y === '')) * (down ? -1 : 1);
      const [p, q] = [Number(x), Number(y)];
      return p === q ? 0 : p - q;
    };
    rows.sort((a, b) => (down ? -1 : 1) * compare(a, b));
    body.append(...rows);
  });
});
const filter = document.createElement('input');
filter.type = 'search';
filter.placeholder = 'names that contain …';
filter.setAttribute('aria-label', 'show only names that contain this text');
filter.addEventListener('input', () => {
  const words = filter.value.toLowerCase().split(/\s+/);
  for (const row of rows) {
    const name = row.querySelector('.name').textContent.toLowerCase();
    row.hidden = !words.every(word => name.includes(word));
  }
});
table.parentElement.before(filter);
