//! A terminal, as far as a program that draws a screen needs one: where the characters are after all that was written.

/// What stands on it.
pub(crate) struct Screen {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Screen {
    /// A screen of this size to which all of `octets` was written.
    pub(crate) fn of(octets: &[u8], rows: usize, columns: usize) -> Screen {
        let mut screen = Screen { rows: vec![vec![' '; columns]; rows], row: 0, column: 0 };
        let text = String::from_utf8_lossy(octets);
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '\x1b' => screen.obey(&mut characters),
                '\r' => screen.column = 0,
                '\n' => screen.row += 1,
                character if !character.is_control() => screen.put(character),
                _ => {}
            }
        }
        screen
    }

    /// Its lines, without the spaces at their ends.
    pub(crate) fn text(&self) -> String {
        self.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
    }

    fn put(&mut self, character: char) {
        if let Some(place) = self.rows.get_mut(self.row).and_then(|row| row.get_mut(self.column)) {
            *place = character;
        }
        self.column += 1;
    }

    /// A control sequence: those that move or erase matter, colours do not.
    fn obey(&mut self, characters: &mut std::str::Chars<'_>) {
        if characters.next() != Some('[') {
            return;
        }
        let mut given = String::new();
        for character in characters {
            if character.is_ascii_alphabetic() {
                let numbers: Vec<usize> =
                    given.split(';').map(|number| number.parse().unwrap_or(1)).collect();
                match character {
                    'H' => {
                        self.row = numbers[0] - 1;
                        self.column = numbers.get(1).map_or(0, |column| column - 1);
                    }
                    // The alternate screen is empty at first.
                    'h' if given == "?1049" => self.rows.iter_mut().for_each(|row| row.fill(' ')),
                    'J' => self.rows.iter_mut().for_each(|row| row.fill(' ')),
                    _ => {}
                }
                return;
            }
            given.push(character);
        }
    }
}
