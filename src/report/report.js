// Tables with the class `sortable` can be sorted by any column and filtered by name. Without
// scripts they are shown in their first order.
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, at) => row.cells[at].dataset.v ?? row.cells[at].textContent;
  heads.forEach((head, at) => {
    if (!head.dataset.kind || !head.textContent.trim()) return;
    const button = document.createElement('button');
    button.type = 'button';
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
        // Cells without a figure stay at the end in both directions.
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
  const count = document.createElement('output');
  filter.addEventListener('input', () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const name = row.querySelector('.name').textContent.toLowerCase();
      row.hidden = !words.every(word => name.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = filter.value.trim() ? `${shown} of ${rows.length}` : '';
  });
  const controls = document.createElement('p');
  controls.className = 'controls';
  controls.append(filter, count);
  table.parentElement.before(controls);
}
